"""Splits that depend on nothing but the text: the same rows fall the same way in any order, on any machine."""

import hashlib

from sentimoe.data.rows import Rows
from sentimoe.errors import DataError


def normalise(text: str) -> str:
    """``text`` without differences of case and whitespace: what counts as the same text."""
    return " ".join(text.casefold().split())


def position(key: str) -> float:
    """A place in [0, 1), spread evenly over distinct keys and fixed for each."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8"), digest_size=6).digest(), "big") / 2**48


def split_off(rows: Rows, name: str, low: float, high: float) -> tuple[Rows, Rows]:
    """(rest, taken): taken are the rows whose normalised text has its position in [low, high).

    Texts that are the same after normalisation stay together.

    Raises:
        DataError: one side would be empty; ``name`` is the split that was to be taken.
    """
    taken = [low <= position(normalise(text)) < high for text in rows.texts]
    if all(taken) or not any(taken):
        raise DataError(
            f"{rows.origin}: {len(rows)} rows are too few to take a {name} split from; "
            f"add rows or give a folder with a {name} file of its own"
        )
    return (
        rows.take(i for i, is_taken in enumerate(taken) if not is_taken),
        rows.take(i for i, is_taken in enumerate(taken) if is_taken),
    )
