"""Tables to CSV, JSONL, Parquet and Excel files that read back as the same columns, types and values."""

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from ..records import written_aside
from .text import clean_text

ROWS_AT_ONCE = 4096
EXCEL_ROWS, EXCEL_COLUMNS, EXCEL_CHARACTERS = 1_048_576, 16_384, 32_767


def write_table(frame: pd.DataFrame, path: Path, overwrite: bool = True) -> None:
    """Write a .csv, .jsonl, .parquet or .xlsx file, whole or not at all.

    What a format has no type for is written as text: outside Parquet bytes in base64, dates as ISO 8601 and decimals by
    their digits; a spreadsheet has dates from 1900 on, without a time zone; in CSV and .xlsx lists and objects as JSON.
    A missing value or NaN is null in JSONL and empty in CSV and .xlsx, which holds whole numbers of more than 15 digits
    as text. overwrite: replace a file that exists.

    Raises:
        DataError: the format cannot hold a column, which the message names, or there is such a file already.
    """
    try:
        with written_aside(path, overwrite) as partial:
            WRITERS[path.suffix.lower()](frame, partial)
    except FileExistsError as error:
        raise DataError(
            f"another process has written {path} meanwhile; choose another file or add --overwrite"
        ) from error


def json_lines(frame: pd.DataFrame, ascii_only: bool = False) -> Iterator[str]:
    """A JSON object for every row, each with its line break. ``ascii_only``: other characters as ``\\uXXXX``.

    Half a surrogate pair stays as it is; what writes the line escapes it (``errors="backslashreplace"``).

    Raises:
        DataError: two columns have one name.
    """
    names = list(frame.columns)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f'two columns are named "{repeated[0]}", which JSON cannot hold; rename one, or write .csv')
    encode = json.JSONEncoder(ensure_ascii=ascii_only).encode
    for row in _rows(frame):
        yield encode(dict(zip(names, row, strict=True))) + "\n"


def _write_jsonl(frame: pd.DataFrame, path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        stream.writelines(json_lines(frame))


def header_of(frame: pd.DataFrame) -> bytes:
    """The bytes of the first row of its CSV file."""
    stream = io.StringIO()
    _csv_to(stream, [[_cell(name) for name in frame.columns]])
    return stream.getvalue().encode()


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        _csv_to(stream, _csv_rows(frame))


def _csv_to(stream: TextIO, rows: Iterable[list[str]]) -> None:
    plain = csv.writer(stream, lineterminator="\n")
    quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # before Python 3.13 a bare carriage return is not quoted, and readers take it for the end of the row
        (quoted if "\r" in "".join(row) else plain).writerow(row)


def _csv_rows(frame: pd.DataFrame) -> Iterator[list[str]]:
    yield [_cell(name) for name in frame.columns]
    for row in _rows(frame):
        yield [_cell(value) for value in row]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    written = str(value)
    return written if written.isascii() else clean_text(written)


def _rows(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Rows of what JSON can hold."""
    for start in range(0, len(frame), ROWS_AT_ONCE):
        part = frame.iloc[start : start + ROWS_AT_ONCE]
        columns = [_values(part.iloc[:, index], name) for index, name in enumerate(part.columns)]
        yield from zip(*columns, strict=True)


def _values(column: pd.Series, name: str) -> list[Any]:
    try:
        if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
            return [_plain(value) for value in column.tolist()]
        array = pa.array(column)
        if pa.types.is_string(array.type) or pa.types.is_integer(array.type):
            return array.to_pylist()  # JSON has these types
        if pa.types.is_float32(array.type):  # the digits of 32 bits: 0.1, not 0.10000000149011612
            return [_plain(None if text is None else float(text)) for text in array.cast(pa.string()).to_pylist()]
        return [_plain(value) for value in array.to_pylist()]
    except (pa.ArrowException, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f'column "{name}" cannot be written as text ({error}); write .parquet') from error


def _plain(value: Any) -> Any:
    if value is pd.NA:
        return None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def _write_excel(frame: pd.DataFrame, path: Path) -> None:
    import xlsxwriter  # only spreadsheets need it

    if len(frame) >= EXCEL_ROWS or len(frame.columns) > EXCEL_COLUMNS:
        raise DataError(
            f"a table of {len(frame)} rows and {len(frame.columns)} columns does not fit into a spreadsheet "
            f"({EXCEL_ROWS:,} rows with the header, {EXCEL_COLUMNS:,} columns); write .csv"
        )
    plain = {"strings_to_formulas": False, "strings_to_urls": False, "constant_memory": True}
    columns = [frame.iloc[:, place].tolist() for place in range(len(frame.columns))]
    with path.open("wb") as stream, xlsxwriter.Workbook(stream, plain) as book:
        sheet = book.add_worksheet()
        day, moment = (book.add_format({"num_format": f"yyyy-mm-dd{rest}"}) for rest in ("", " hh:mm:ss"))
        for number, row in enumerate([tuple(frame.columns), *_rows(frame)]):
            for place, value in enumerate(row):
                if number and _is_date(given := columns[place][number - 1]):
                    sheet.write_datetime(number, place, given, moment if isinstance(given, datetime) else day)
                elif isinstance(value, bool):
                    sheet.write_boolean(number, place, value)
                elif isinstance(value, int | float) and abs(value) < 10**15:
                    sheet.write_number(number, place, value)
                elif len(written := _cell(value)) > EXCEL_CHARACTERS:
                    raise DataError(
                        f'column "{frame.columns[place]}", row {number}: {len(written):,} characters do not fit into a '
                        f"cell of a spreadsheet ({EXCEL_CHARACTERS:,}); write .csv"
                    )
                elif written:
                    sheet.write_string(number, place, written)


def _is_date(value: Any) -> bool:
    """Whether it is a date, with or without a time, that a spreadsheet has a number for."""
    return isinstance(value, date) and value == value and value.year >= 1900 and getattr(value, "tzinfo", None) is None


def arrow_table(frame: pd.DataFrame) -> pa.Table:
    """The frame as a Parquet file holds it. Raises DataError for a column that it cannot hold."""
    arrays = [_array(frame.iloc[:, index], name) for index, name in enumerate(frame.columns)]
    return pa.Table.from_arrays(arrays, names=list(map(clean_text, frame.columns)))


def write_arrow(table: pa.Table, path: Path) -> None:
    """Write a Parquet file. Raises DataError for a type that it cannot hold."""
    try:
        pq.write_table(table, path)
    except pa.ArrowNotImplementedError as error:
        raise DataError(f"Parquet cannot hold a column ({error}); write .jsonl") from error


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    write_arrow(arrow_table(frame), path)


def _array(column: pd.Series, name: str) -> pa.Array | pa.ChunkedArray:
    if column.dtype != object:
        return pa.array(column)
    try:
        return pa.array([_encodable(value) for value in column.tolist()], from_pandas=True)
    except (pa.ArrowException, OverflowError, RecursionError) as error:
        raise DataError(f'Parquet cannot hold the column "{name}" ({error}); write .jsonl') from error


def _encodable(value: Any) -> Any:
    """Half a surrogate pair becomes U+FFFD, as in texts; also inside lists and objects."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    if isinstance(value, dict):
        return {clean_text(key): _encodable(each) for key, each in value.items()}
    return value


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
    ".xlsx": _write_excel,
}
