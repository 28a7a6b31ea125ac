"""Files to tables, with no row or text changed on the way."""

import errno
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, StoppedError
from .decoding import COMPRESSED, decode, read_bytes
from .delimited import read_delimited, with_header
from .rows import cells, find_column
from .text import clean_text, one_line

logger = logging.getLogger(__name__)
# of a disk or a network: they may pass
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class FileFormat:
    """How a text file is written, where it is not to be found out: see `decode` and `read_delimited`.

    columns: usual names of the columns of texts and labels, for `find_column`.
    """

    encoding: str | None = None
    delimiter: str | None = None
    columns: tuple[str | None, str | None] = (None, None)


FOUND_OUT = FileFormat()


@dataclass(frozen=True)
class Table:
    """A frame and where it came from (a path or a preset's split), as errors name it.

    untyped: every cell is a string, as in a CSV file, so that a column of whole numbers is one of integers.
    """

    origin: str
    frame: pd.DataFrame
    untyped: bool = False


def read_table(path: str | Path, file_format: FileFormat = FOUND_OUT) -> Table:
    """Every row of a file of one of the kinds in ``READERS``, plain or ending in .gz or .zst, in order.

    Cells of CSV and TSV are all strings; other files keep their types. Empty lines at the end are no rows.

    Raises:
        ConfigError: an encoding or delimiter that does not exist.
        DataError: not found, unsupported extension, another encoding, malformed, or no rows.
        StoppedError: a disk or network that may answer later.
    """
    table = _read(Path(os.path.expanduser(path)), file_format)
    if not len(table.frame):
        raise DataError(f"{path}: the file is empty (no data rows); give a file with at least one row")
    return table


def kind_of(path: Path) -> str:
    """The extension that says how a file is read, in lower case: .csv of reviews.CSV.gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def _read(path: Path, file_format: FileFormat) -> Table:
    suffix = kind_of(path)
    if suffix not in READERS:
        raise DataError(f'{path}: unsupported extension "{path.suffix}"; convert it to one of {", ".join(READERS)}')
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    try:
        return Table(str(path), READERS[suffix](path, file_format), suffix in (".csv", ".tsv"))
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError | StoppedError:
    """What to raise where the system cannot read a file or list a folder: StoppedError where that may pass."""
    if error.errno in PASSING:
        return StoppedError(
            f"stopped, because {path} cannot be read now ({error.strerror}); what is finished stays, and the same "
            "command goes on"
        )
    return DataError(f"{path}: cannot be read ({error.strerror}); check the file and who may read it")


def read_texts(
    path: str | Path, text_column: str | None = None, file_format: FileFormat = FOUND_OUT
) -> tuple[pd.DataFrame, list[str]]:
    """The rows to predict on, as they are, in order and none dropped, and the text of each (column "text" by default).

    Texts are cleaned: see :func:`~sentimoe.data.text.clean_text`; an empty text is allowed, and a file without rows.

    Raises:
        DataError: as :func:`read_table`; the column is missing or there twice; a value of it that is no text, such as a
            list or bytes.
    """
    table = _read(Path(os.path.expanduser(path)), file_format)
    if table.frame.shape == (0, 0):  # JSONL without a line names no columns
        table.frame[text_column or "text"] = pd.Series(dtype=pd.ArrowDtype(pa.string()))
    column = find_column(table.frame, table.origin, text_column, "text", file_format.columns[0])
    texts = [clean_text(value, where) for where, value in cells(table.frame, table.origin, column)]
    if not table.frame.columns.is_unique:
        table.frame.columns = pd.Index(distinct(list(table.frame.columns)))
    return table.frame, texts


def distinct(names: list[str]) -> list[str]:
    """Each name once, in order; a repeated one gets a number, as pandas gives them: id, id.1, id.2."""
    taken, found = set(names), []
    numbers: dict[str, Iterator[int]] = {}
    for name in names:
        numbered = name
        if name in numbers:
            numbered = next(free for number in numbers[name] if (free := f"{name}.{number}") not in taken)
            taken.add(numbered)
        numbers.setdefault(name, count(1))
        found.append(numbered)
    return found


def _read_text(path: Path, file_format: FileFormat) -> str:
    return decode(read_bytes(path), path, file_format.encoding)


def _read_csv(path: Path, file_format: FileFormat) -> pd.DataFrame:
    return read_delimited(_read_text(path, file_format), path, file_format.delimiter)


def _read_tsv(path: Path, file_format: FileFormat) -> pd.DataFrame:
    return read_delimited(_read_text(path, file_format), path, file_format.delimiter or "\t")


def _read_excel(path: Path, file_format: FileFormat) -> pd.DataFrame:
    """The first sheet, its cells of the types that they have there."""
    from python_calamine import CalamineError, CalamineWorkbook  # only spreadsheets need it

    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(read_bytes(path)))
        rows = book.get_sheet_by_index(0).to_python(skip_empty_area=False)
    except (CalamineError, IndexError) as error:
        raise DataError(f"{path}: not a readable Excel file ({one_line(error)}); save it again, or as CSV") from error
    if len(book.sheet_names) > 1:
        logger.warning("%s has %d sheets; the first one, %r, is read", path, len(book.sheet_names), book.sheet_names[0])
    while rows and all(cell == "" for cell in rows[-1]):
        rows.pop()
    if not rows:
        raise DataError(f"{path}: the sheet is empty; start it with the column names")
    cells = [[int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in row] for row in rows]
    return with_header(pd.DataFrame(cells, dtype=object))


def _read_json(path: Path, file_format: FileFormat) -> pd.DataFrame:
    """A list of objects."""
    try:
        found = json.loads(_read_text(path, file_format), object_pairs_hook=_object)
    except RecursionError as error:
        raise DataError(f"{path}: nested too deeply; flatten it") from error
    except ValueError as error:
        raise DataError(
            f"{path}: not valid JSON ({one_line(error)}); a file with one object a line is .jsonl"
        ) from error
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise DataError(f'{path}: not a list of objects; write it as [{{"text": "...", "label": 0}}, ...]')
    return _frame_of(found)


def _read_jsonl(path: Path, file_format: FileFormat) -> pd.DataFrame:
    text = _read_text(path, file_format).rstrip()
    lines = enumerate(text.split("\n") if text else [], start=1)
    return _frame_of([parsed_line(line, path, number) for number, line in lines])


def parsed_line(line: str, path: Path, number: int) -> dict[str, Any]:
    """The object of a line of JSONL. number: of the line, from 1, for the message. Raises DataError."""
    try:
        record = json.loads(line, object_pairs_hook=_object)
    except RecursionError as error:
        raise DataError(f"{path}, line {number}: nested too deeply; flatten it") from error
    except ValueError as error:  # no JSON, a name that stands twice, a number of more than 4,300 digits
        raise DataError(
            f"{path}, line {number}: not valid JSON ({one_line(error)}); write one object on each line"
        ) from error
    if not isinstance(record, dict):
        raise DataError(f'{path}, line {number}: not a JSON object; write lines such as {{"text": "...", "label": 0}}')
    return record


def _frame_of(records: list[dict[str, Any]]) -> pd.DataFrame:
    names = list(dict.fromkeys(name for record in records for name in record))
    # not strings of Arrow, which cannot hold a name with half a surrogate pair
    return pd.DataFrame(records, columns=pd.Index(names, dtype=object), dtype=object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # json would keep the last one without a word
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _read_parquet(path: Path, file_format: FileFormat) -> pd.DataFrame:
    try:
        with pq.ParquetFile(
            pa.BufferReader(read_bytes(path)), page_checksum_verification=True
        ) as file:  # where the file has checksums
            table = file.read()
        table.validate(full=True)  # strings that are not UTF-8 and offsets that point elsewhere
        # Arrow types keep integers with gaps integers, where NumPy's would make them floats
        return table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({one_line(error)}); write it again") from error


READERS: dict[str, Callable[[Path, FileFormat], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".xlsx": _read_excel,
    ".xls": _read_excel,
    ".ods": _read_excel,
}
