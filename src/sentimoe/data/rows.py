"""Table columns to texts and labels: rows that lack one are counted and left out, other bad rows are errors."""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import pandas as pd
import pyarrow as pa

from ..errors import ConfigError, DataError
from .text import is_missing, listed, one_line, shown

MOST_BLANK = 0.2  # of the labelled rows; above it the column is probably the wrong one
WELL_KNOWN = {  # letters and digits of names, in lower case
    "text": {
        *("review", "reviewtext", "reviewbody", "sentence", "tweet", "content", "comment", "comments", "body"),
        *("message", "document", "feedback", "ticket", "description", "texts", "reviews"),
    },
    "label": {
        *("labels", "sentiment", "stars", "star", "rating", "ratings", "category", "class", "target", "emotion"),
        *("score", "polarity", "starrating", "overall"),
    },
}

INTEGER = re.compile(r"0|-?[1-9][0-9]*")
FLAGS = {"text": "--text-column", "label": "--label-column", "by": "--by"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Labelled texts, one entry per row in each list.

    ``numbers`` are 1-based data rows of ``origin``, kept through splitting; ``labels`` are as written in the file
    (integers in decimal). ``integers``: all labels were integers there, not strings; in a CSV file, whole numbers.
    ``skipped``: one sentence on rows of the file that are not here, if there are any. ``unlabelled``: how many of these
    have a text and no label.
    """

    origin: str
    numbers: list[int]
    texts: list[str]
    labels: list[str]
    integers: bool = False
    skipped: str = ""
    unlabelled: int = 0

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
            self.skipped,
            self.unlabelled,
        )


def labelled_rows(
    frame: pd.DataFrame,
    origin: str,
    text_column: str | None,
    label_column: str | None,
    *,
    usual: tuple[str | None, str | None] = (None, None),
    strict: bool = False,
    untyped: bool = False,
) -> Rows:
    """The rows of ``frame`` that have a text and a label. strict: all must. untyped: every cell is a string.

    The columns are those named, or the usual ones, or "text" and "label", or else the only ones of a well-known name.

    Raises:
        ConfigError: one column is named for both.
        DataError: a column is missing; a text is no string; a label is neither string nor integer; more than a fifth of
            the labelled rows have no text; none has both; or, if strict, some row lacks one.
    """
    text_column = find_column(frame, origin, text_column, "text", usual[0])
    label_column = find_column(frame, origin, label_column, "label", usual[1])
    if text_column == label_column:
        raise ConfigError(
            f'"{text_column}" is named as the column of the texts and of the labels; name two with --text-column and '
            "--label-column"
        )
    texts = text_values(frame, origin, text_column)
    labels = [_label(value, where) for where, value in cells(frame, origin, label_column)]
    rows = list(enumerate(zip(texts, labels, strict=True), start=1))
    blank = [number for number, (text, _) in rows if not text.strip()]
    unlabelled = [number for number, (text, label) in rows if text.strip() and label is None]
    numbers = [number for number, (text, label) in rows if text.strip() and label is not None]
    skipped = _skipped(origin, len(rows), blank, unlabelled)
    if strict and skipped:
        raise DataError(f"{skipped} Fill them, delete the rows, or leave out --strict: {_all(blank, unlabelled)}")
    if rows and not numbers:
        raise DataError(f'{origin}: no row has both a text ("{text_column}") and a label ("{label_column}"); fill them')
    labelled = sum(label is not None for label in labels)
    if labelled - len(numbers) > MOST_BLANK * labelled:
        raise DataError(
            f'{origin}: {labelled - len(numbers)} of {labelled} labelled rows have no text in column "{text_column}"; '
            "is this the column of the texts? Name it with --text-column, or delete these rows"
        )
    given = [value for value in frame[label_column].tolist() if not is_missing(value)]
    integers = all(isinstance(value, Integral) or _is_whole(value) for value in given)
    if untyped:
        integers = all(INTEGER.fullmatch(label) for label in labels if label is not None)
    kept = [texts[number - 1] for number in numbers], [labels[number - 1] or "" for number in numbers]
    return Rows(origin, numbers, *kept, integers, skipped, len(unlabelled))


def _skipped(origin: str, rows: int, blank: list[int], unlabelled: list[int]) -> str:
    reasons = [
        f"{len(numbers)} without a {what} (first: {', '.join(map(str, numbers[:3]))})"
        for what, numbers in (("text", blank), ("label", unlabelled))
        if numbers
    ]
    summary = f"{len(blank) + len(unlabelled)} of {rows} rows of {origin} skipped: {', '.join(reasons)}."
    return f"{summary} Row 1 is the first after any header." if reasons else ""


def _all(blank: list[int], unlabelled: list[int]) -> str:
    lists = (("text", blank), ("label", unlabelled))
    return "; ".join(f"no {what} in rows {', '.join(map(str, numbers))}" for what, numbers in lists if numbers)


def find_column(frame: pd.DataFrame, origin: str, column: str | None, role: str, usual: str | None = None) -> str:
    """The column of the texts (role "text") or labels (role "label").

    It is the one named; else the usual one, such as that which a model was trained on; else that of the role's name, or
    the only one of this name in another case; else the only one of a well-known name. A log line tells of all but the
    first and the third. Raises DataError, with the columns that there are and the flag that names one.
    """
    names = list(map(str, frame.columns))
    if column is None and usual in names and usual != role:
        logger.warning('%s: column "%s" holds the %ss, as when the model was trained', origin, usual, role)
        column = usual
    wanted = column or role
    alike = [name for name in names if name.strip().casefold() == wanted.strip().casefold()]
    if wanted not in names and len(alike) == 1:
        logger.warning('%s: column "%s" is taken for "%s"', origin, alike[0], wanted)
        column = alike[0]
    elif column is None and role not in names and role in WELL_KNOWN:
        known = [name for name in names if _plain(name) in WELL_KNOWN[role]]
        if len(known) == 1:
            logger.warning('%s: column "%s" holds the %ss', origin, known[0], role)
            column = known[0]
    column = column or role
    if column not in names:
        other = " (or, if another character separates the columns, that with --delimiter)" if len(names) == 1 else ""
        raise DataError(
            f'{origin}: no column "{column}"; its columns are: {listed(names)}. Name the right one with '
            f"{FLAGS[role]}{other}"
        )
    if (times := names.count(column)) > 1:
        raise DataError(f'{origin}: {times} columns are named "{column}"; rename all but one')
    return column


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


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


def labels_of(frame: pd.DataFrame, origin: str, column: str) -> list[str | None]:
    """The label in each row of a table, as it is written; None where there is none. Raises DataError."""
    found = find_column(frame, origin, column, "label")
    return [_label(value, where) for where, value in cells(frame, origin, found)]


def _is_whole(value: Any) -> bool:
    """Whether it is a float without a fraction: pandas makes them of integers where another cell is empty."""
    return isinstance(value, float) and value.is_integer()


def _label(value: Any, where: str) -> str | None:
    """The label as it is written; None where there is none."""
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if _is_whole(value):
        value = int(value)
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
