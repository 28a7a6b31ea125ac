"""CSV and TSV text to a table of strings."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import ConfigError, DataError
from .text import is_missing, one_line

DELIMITERS = (",", ";", "\t", "|")
SAMPLE_LINES = 100

logger = logging.getLogger(__name__)


def read_delimited(text: str, path: Path, delimiter: str | None = None) -> pd.DataFrame:
    """Every row, its cells as strings: "NA", "null" and "None" stay as they are, and an empty cell is "".

    delimiter: one character; None: the one among , ; tab and | that the line of column names holds. Blank last lines
    are no rows.

    Raises:
        ConfigError: a delimiter that is not one character.
        DataError: malformed, or no column names.
    """
    check_delimiter(delimiter)
    named, text = without_separator_line(text.rstrip("\r\n"))
    delimiter = delimiter or named
    if delimiter is None:
        delimiter = find_delimiter(text)
        if delimiter != ",":
            logger.warning("%s: columns are separated by %r", path, delimiter)
    try:
        # the names are read as a row, or pandas would number repeated ones and take longer rows for an index; blank
        # lines count as rows, so that row numbers and predictions stay aligned with the file
        whole = pd.read_csv(
            io.StringIO(text),
            sep=delimiter,
            header=None,
            dtype=str,
            na_filter=False,
            skip_blank_lines=False,
        )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty or its first line is; start it with the column names") from error
    except pd.errors.ParserError as error:
        raise DataError(
            f"{path}: malformed CSV ({one_line(error)}); put texts that hold {delimiter!r} or line breaks in quotes"
        ) from error
    return with_header(whole)


def check_delimiter(delimiter: str | None) -> None:
    """Raises ConfigError for what is not one character that can part columns."""
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0'):
        raise ConfigError(
            f"delimiter={delimiter!r} must be one ASCII character, such as ';', and no quote or line break"
        )


def without_separator_line(text: str) -> tuple[str | None, str]:
    """The delimiter of a first line `sep=;`, which Excel writes for itself, and the text after it."""
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep=") and len(first.rstrip("\r")) == 5:
        return first[4], rest
    return None, text


def with_header(whole: pd.DataFrame) -> pd.DataFrame:
    """A table whose first row holds the names of its columns; a column without a name gets a number."""
    frame = whole.iloc[1:].reset_index(drop=True)
    frame.columns = pd.Index(named_columns(whole.iloc[0].tolist()))
    return frame


def named_columns(names: Sequence[Any]) -> list[str]:
    """The cells of the first row as names."""
    return [f"Unnamed: {index}" if is_missing(name) or name == "" else str(name) for index, name in enumerate(names)]


def find_delimiter(text: str) -> str:
    """The delimiter in the line of column names; where there are several, the one that splits most rows like it.

    A comma where there is none: the file has one column.
    """
    sample = "\n".join(text.split("\n", SAMPLE_LINES)[:SAMPLE_LINES])
    counts = {delimiter: _cells(sample, delimiter) for delimiter in DELIMITERS}
    able = [each for each in DELIMITERS if counts[each] and counts[each][0] > 1]
    if len(able) < 2:
        return able[0] if able else ","

    def fits(delimiter: str) -> tuple[float, int]:
        names, *rows = counts[delimiter]
        return sum(count == names for count in rows) / max(len(rows), 1), names

    return max(able, key=fits)


def _cells(sample: str, delimiter: str) -> list[int]:
    """How many cells each row has."""
    try:
        return [len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)]
    except csv.Error:  # a cell of more than 131,072 characters
        return []
