"""CSV, JSONL and Parquet files to tables, with no row or text changed on the way."""

import codecs
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sentimoe.data.rows import find_column
from sentimoe.data.text import clean_text
from sentimoe.errors import DataError


@dataclass(frozen=True)
class Table:
    """A frame and where it came from (a path or a preset's split), as errors name it."""

    origin: str
    frame: pd.DataFrame


def read_table(path: str | Path) -> Table:
    """Every row of a .csv, .jsonl or .parquet file, in order.

    CSV cells are all strings: "NA", "null" and "None" stay as they are and an empty cell is "".

    Raises:
        DataError: not found, unsupported extension, not UTF-8, malformed, or no rows.
    """
    table = _read(Path(path).expanduser())
    if table.frame.empty:
        raise DataError(f"{path}: the file is empty (no data rows); give a file with at least one row")
    return table


def _read(path: Path) -> Table:
    if path.suffix not in READERS:
        raise DataError(f'{path}: unsupported extension "{path.suffix}"; convert it to one of {", ".join(READERS)}')
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    return Table(str(path), READERS[path.suffix](path))


def read_texts(path: str | Path, text_column: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The rows to predict on, as they are, in order and none dropped, and the text of each (column "text" by default).

    Texts are cleaned: see :func:`~sentimoe.data.text.clean_text`; an empty text is allowed, and a file without rows.

    Raises:
        DataError: as :func:`read_table`, or the column is missing.
    """
    table = _read(Path(path).expanduser())
    if table.frame.shape == (0, 0):  # JSONL without a line names no columns
        table.frame[text_column or "text"] = pd.Series(dtype=pd.ArrowDtype(pa.string()))
    column = find_column(table.frame, table.origin, text_column or "text", "--text-column")
    return table.frame, [clean_text(value) for value in table.frame[column].tolist()]


def _decode(path: Path) -> str:
    data = path.read_bytes()
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
    try:
        # blank lines count as rows, so that row numbers and predictions stay aligned with the file
        frame = pd.read_csv(
            io.StringIO(_decode(path)), dtype=str, keep_default_na=False, na_filter=False, skip_blank_lines=False
        )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty or its first line is; start it with the column names") from error
    except pd.errors.ParserError as error:
        raise DataError(
            f"{path}: malformed CSV ({error}); put texts that hold commas or line breaks in quotes"
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas' way of taking rows longer than the header
        raise DataError(f"{path}, row 1: more fields than column names; put texts that hold commas in quotes")
    return frame


def _read_jsonl(path: Path) -> pd.DataFrame:
    text = _decode(path)
    records = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not valid JSON ({error}); write one object on each line"
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                f'{path}, line {number}: not a JSON object; write lines such as {{"text": "...", "label": 0}}'
            )
        records.append(record)
    return pd.DataFrame(records, dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        with pq.ParquetFile(path) as file:
            # Arrow types keep integers with gaps integers, where NumPy's would make them floats
            return file.read().to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); write it again") from error


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
