"""CSV, JSONL and Parquet files to tables, with no row or text changed on the way."""

import codecs
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from .rows import cells, find_column
from .text import clean_text, one_line


@dataclass(frozen=True)
class Table:
    """A frame and where it came from (a path or a preset's split), as errors name it."""

    origin: str
    frame: pd.DataFrame


def read_table(path: str | Path) -> Table:
    """Every row of a .csv, .jsonl or .parquet file, in order; empty lines at its end are no rows.

    CSV cells are all strings: "NA", "null" and "None" stay as they are and an empty cell is "".

    Raises:
        DataError: not found, unsupported extension, not UTF-8, malformed, or no rows.
    """
    table = _read(Path(path).expanduser())
    if not len(table.frame):
        raise DataError(f"{path}: the file is empty (no data rows); give a file with at least one row")
    return table


def _read(path: Path) -> Table:
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise DataError(f'{path}: unsupported extension "{path.suffix}"; convert it to one of {", ".join(READERS)}')
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    try:
        return Table(str(path), READERS[suffix](path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file and who may read it") from error


def read_texts(path: str | Path, text_column: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The rows to predict on, as they are, in order and none dropped, and the text of each (column "text" by default).

    Texts are cleaned: see :func:`~sentimoe.data.text.clean_text`; an empty text is allowed, and a file without rows.

    Raises:
        DataError: as :func:`read_table`; the column is missing or there twice; a value of it that is no text, such as a
            list or bytes.
    """
    table = _read(Path(path).expanduser())
    if table.frame.shape == (0, 0):  # JSONL without a line names no columns
        table.frame[text_column or "text"] = pd.Series(dtype=pd.ArrowDtype(pa.string()))
    column = find_column(table.frame, table.origin, text_column or "text", "--text-column")
    texts = [clean_text(value, where) for where, value in cells(table.frame, table.origin, column)]
    if not table.frame.columns.is_unique:
        table.frame.columns = pd.Index(_distinct(list(table.frame.columns)))
    return table.frame, texts


def _distinct(names: list[str]) -> list[str]:
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


# what a file that is no text begins with
SIGNATURES = {
    b"\x1f\x8b": "gzip-compressed; unpack it first, for example with gunzip",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save the sheet as CSV",
    b"BZh91AY&SY": "bzip2-compressed; unpack it first",
    b"\xfd7zXZ\x00": "xz-compressed; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it first",
    b"PAR1": "a Parquet file; name it .parquet",
}


def _decode(path: Path) -> str:
    data = path.read_bytes()
    for signature, what in SIGNATURES.items():
        if data.startswith(signature):
            raise DataError(f"{path}: not a text file but {what}")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "WINDOWS-1252"
        raise DataError(
            f"{path}, line {line}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; save the file "
            f"as UTF-8, for example with: iconv -f {found} -t UTF-8 {path.name}"
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    text = _decode(path).rstrip("\r\n")
    try:
        # the names are read as a row, or pandas would number repeated ones and take longer rows for an index; blank
        # lines count as rows, so that row numbers and predictions stay aligned with the file
        whole = pd.read_csv(
            io.StringIO(text), header=None, dtype=str, keep_default_na=False, na_filter=False, skip_blank_lines=False
        )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty or its first line is; start it with the column names") from error
    except pd.errors.ParserError as error:
        raise DataError(
            f"{path}: malformed CSV ({one_line(error)}); put texts that hold commas or line breaks in quotes"
        ) from error
    frame = whole.iloc[1:].reset_index(drop=True)
    frame.columns = pd.Index([name or f"Unnamed: {index}" for index, name in enumerate(whole.iloc[0].tolist())])
    return frame


def _read_jsonl(path: Path) -> pd.DataFrame:
    text = _decode(path).rstrip()
    records = []
    for number, line in enumerate(text.split("\n") if text else [], start=1):
        try:
            record = json.loads(line, object_pairs_hook=_object)
        except RecursionError as error:
            raise DataError(f"{path}, line {number}: nested too deeply; flatten it") from error
        except ValueError as error:  # no JSON, a name that stands twice, a number of more than 4,300 digits
            raise DataError(
                f"{path}, line {number}: not valid JSON ({one_line(error)}); write one object on each line"
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                f'{path}, line {number}: not a JSON object; write lines such as {{"text": "...", "label": 0}}'
            )
        records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    # not strings of Arrow, which cannot hold a name with half a surrogate pair
    return pd.DataFrame(records, columns=pd.Index(names, dtype=object), dtype=object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # json would keep the last one without a word
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:  # where the file has checksums
            table = file.read()
        table.validate(full=True)  # strings that are not UTF-8 and offsets that point elsewhere
        # Arrow types keep integers with gaps integers, where NumPy's would make them floats
        return table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({one_line(error)}); write it again") from error


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
