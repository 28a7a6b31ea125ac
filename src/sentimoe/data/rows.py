"""Table columns to texts and labels; each bad row is an error that names it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import pandas as pd
import pyarrow as pa

from ..errors import ConfigError, DataError
from .text import is_missing, listed, one_line, shown


@dataclass(frozen=True)
class Rows:
    """Labelled texts, one entry per row in each list.

    ``numbers`` are 1-based data rows of ``origin``, kept through splitting; ``labels`` are as written in the file
    (integers in decimal). ``integers``: all labels were integers there, not strings.
    """

    origin: str
    numbers: list[int]
    texts: list[str]
    labels: list[str]
    integers: bool = False

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> "Rows":
        """The rows at these 0-based positions, in the order given."""
        chosen = list(indices)
        return Rows(
            self.origin,
            [self.numbers[i] for i in chosen],
            [self.texts[i] for i in chosen],
            [self.labels[i] for i in chosen],
            self.integers,
        )


def labelled_rows(
    frame: pd.DataFrame, origin: str, text_column: str | None, label_column: str | None, *, blank: bool = False
) -> Rows:
    """All rows of ``frame``; the columns are "text" and "label" unless named otherwise. blank: a text may be empty.

    Raises:
        ConfigError: one column is named for both.
        DataError: a column is missing; a text is empty, blank or no string; a label is missing or neither string nor
            integer. The message names the row.
    """
    text_column = find_column(frame, origin, text_column or "text", "--text-column")
    label_column = find_column(frame, origin, label_column or "label", "--label-column")
    if text_column == label_column:
        raise ConfigError(
            f'"{text_column}" is named as the column of the texts and of the labels; name two with --text-column and '
            "--label-column"
        )
    texts = text_values(frame, origin, text_column)
    for number, text in enumerate(texts, start=1):
        if not (blank or text.strip()):
            raise DataError(f'{origin}, row {number}: column "{text_column}" is empty; fill it or delete the row')
    labels, integers = [], True
    for where, value in cells(frame, origin, label_column):
        labels.append(_label(value, where))
        integers = integers and isinstance(value, Integral)
    return Rows(origin, list(range(1, len(frame) + 1)), texts, labels, integers)


def find_column(frame: pd.DataFrame, origin: str, column: str, flag: str) -> str:
    """``column`` if the frame has it once, else DataError with its columns and the flag that names another."""
    if column not in frame.columns:
        raise DataError(
            f'{origin}: no column "{column}"; its columns are: {listed(frame.columns)}. Name the right one with {flag}'
        )
    if (times := list(frame.columns).count(column)) > 1:
        raise DataError(f'{origin}: {times} columns are named "{column}"; rename all but one')
    return column


def text_values(frame: pd.DataFrame, origin: str, column: str) -> list[str]:
    """One string per row of ``column``; missing is "". Raises DataError at a value that is no encodable string."""
    return [_text(value, where) for where, value in cells(frame, origin, column)]


def cells(frame: pd.DataFrame, origin: str, column: str) -> Iterator[tuple[str, Any]]:
    """(how an error names it, value) of each row of ``column``. Raises DataError for dates that Python has not."""
    try:
        values = frame[column].tolist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(
            f'{origin}: column "{column}" cannot be read ({one_line(error)}); write it as strings'
        ) from error
    return ((f'{origin}, row {number}: column "{column}"', value) for number, value in enumerate(values, start=1))


def _text(value: Any, where: str) -> str:
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where} holds {shown(value)}, not a string; write the text as a string")
    return _encodable(value, where)


def _label(value: Any, where: str) -> str:
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{where} has no label; fill it or delete the row")
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise DataError(f"{where} holds {shown(value)}; write labels as strings or integers")
    try:
        written = value if isinstance(value, str) else str(value)
    except ValueError as error:  # an integer of more than 4,300 digits
        raise DataError(f"{where} holds a number that Python does not write ({error}); write it as a string") from error
    return _encodable(written, where)


def _encodable(value: str, where: str) -> str:
    """The value, as a plain string where it was of a subclass."""
    try:
        return value.encode("utf-8").decode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half a surrogate pair at character {error.start}; write it whole") from error
