"""Text as a tokenizer and a file can take it."""

import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from numbers import Number
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa

from ..errors import ConfigError, DataError

CHARACTERS = 4_000_000  # of a chunk: their tokens take about 500 MB
# what has one obvious spelling; bytes, lists, arrays and objects have only a repr, which is no text
SPELLED = (str, Number, np.bool_, np.datetime64, np.timedelta64, date, time, timedelta, UUID)


def clean_text(text: Any, where: str = "the text") -> str:
    """A missing value (None, NaN, NA) becomes "", a lone surrogate U+FFFD, a number or a date its characters.

    Raises DataError, which begins with `where`, for what is no text, such as bytes or a list.
    """
    if is_missing(text):
        return ""
    if not isinstance(text, SPELLED):
        raise DataError(
            f"{where} is {shown(text)}; a text is a string, a number or a date, and None where it is missing"
        )
    try:
        written = text if isinstance(text, str) else str(text)
    except ValueError as error:  # an integer of more than 4,300 digits
        raise DataError(f"{where} is a number that Python does not write ({error}); give it as a string") from error
    return written.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN of any kind, NA or NaT."""
    if isinstance(value, Decimal):
        return value.is_nan()  # a signalling NaN raises when it is compared
    return value is None or value is pd.NA or (isinstance(value, SPELLED) and bool(value != value))


def text_chunks(texts: Iterable[Any], size: int) -> Iterator[list[str]]:
    """The texts, cleaned, `size` at a time or, where they are long, fewer, for inputs that do not fit in memory.

    Raises ConfigError and DataError as `values_of` and `clean_text` do, at the first chunk and at a value that is none.
    """
    chunk: list[str] = []
    characters = 0
    for row, value in enumerate(values_of(texts)):
        chunk.append(clean_text(value, f"texts[{row}]"))
        characters += len(chunk[-1])
        if len(chunk) == size or characters >= CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def values_of(given: Any, name: str = "texts") -> Iterable[Any]:
    """The values of a list, tuple, one-dimensional array, Series, Arrow array, data set column or iterator, in order.

    name: "texts" or "labels", for the message. Raises ConfigError for everything that iterates as something else, such
    as a table (the names of its columns), a dict (its keys) or one string (its characters), or in no order.
    """
    if reason := _refusal(given):
        raise ConfigError(f"{name} is {shown(given)}{reason}")
    return (value.as_py() if isinstance(value, pa.Scalar) else value for value in given)


def _refusal(given: Any) -> str | None:
    """Why this is no column of values, and what to give instead; None where it is one."""
    if isinstance(given, str):
        return ", one string, whose characters would be read one by one; give a list: [text]"
    if isinstance(given, (bytes, bytearray, memoryview)):
        return ", bytes, which would be read as numbers; decode them and give a list of strings"
    if hasattr(given, "columns") or hasattr(given, "column_names"):
        return (
            f", a table, whose columns would be read; give one of them, such as {type(given).__name__.lower()}['text']"
        )
    if isinstance(given, Mapping):
        return ", whose keys would be read; give a list: list(values.values())"
    if isinstance(given, (set, frozenset)):
        return ", which has no order for the answers; give a list"
    if (dimensions := getattr(given, "ndim", 1)) != 1:
        return f" of {dimensions} dimensions, shape {tuple(given.shape)}; give one dimension, such as a list of strings"
    if not isinstance(given, Iterable):
        return "; give a list of them"
    return None


def shown(value: Any) -> str:
    """A value as an error message shows it: its type and the start of its repr, on one line."""
    try:
        written = reprlib.repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        written = "..."
    return f"{type(value).__name__} {one_line(written)}"


def one_line(message: object) -> str:
    """What an error message quotes, such as another error: without line breaks and control characters."""
    return " ".join("".join(each if each.isprintable() else " " for each in str(message)).split())


def listed(names: Collection[str]) -> str:
    """Names as an error message lists them: the first 20, each cut at 60 characters."""
    written = [name if len(name) <= 60 else name[:57] + "..." for name in map(one_line, islice(names, 20))]
    return ", ".join(written) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
