"""Splits that depend on nothing but the text: the same rows fall the same way in any order, on any machine."""

import hashlib

from ..errors import DataError
from .rows import Rows


def normalise(text: str) -> str:
    """``text`` without differences of case and whitespace: what counts as the same text."""
    return " ".join(text.casefold().split())


def position(key: str) -> float:
    """A place in [0, 1), spread evenly over distinct keys and fixed for each."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8"), digest_size=6).digest(), "big") / 2**48


def split_off(
    rows: Rows, name: str, low: float, high: float, keep: int = 1, *, stratified: bool = False
) -> tuple[Rows, Rows]:
    """(rest, taken): taken are the rows whose normalised text has its position in [low, high), 0 or 1 being one end.

    stratified: of each class that share of its different texts, those nearest the end. It leaves small data with the
    shares of the classes; large ones have them anyway.

    Texts that are the same after normalisation stay together. Where a class would be missing on a side, its texts
    nearest the border change sides: the rest keeps `keep` different texts of every class, as far as there are so many,
    and every class that has more is taken from.

    Raises:
        DataError: no class has more than `keep` different texts; ``name`` is the split that was to be taken.
    """
    keys = [normalise(text) for text in rows.texts]
    places = {key: position(key) for key in keys}
    border = low or high
    by_class: dict[str, list[str]] = {}
    for key, label in sorted(
        set(zip(keys, rows.labels, strict=True)), key=lambda one: (abs(places[one[0]] - border), one)
    ):
        by_class.setdefault(label, []).append(key)
    if stratified:
        taken = set()
        for texts in by_class.values():
            from_end = sorted(texts, key=lambda key: (places[key] if low == 0 else -places[key], key))
            taken.update(from_end[: round((high - low) * len(texts))])
    else:
        taken = {key for key, place in places.items() if low <= place < high}
    for texts in by_class.values():
        if len(texts) > keep and taken.isdisjoint(texts):
            taken.add(texts[0])
    for texts in by_class.values():  # last: a text that stands under two labels may leave taken without one of them
        lacking = keep - sum(key not in taken for key in texts)
        taken.difference_update([key for key in texts if key in taken][: max(lacking, 0)])
    if not taken:
        raise DataError(
            f"{rows.origin}: {len(rows)} rows with {len(set(keys))} different texts and {len(by_class)} different "
            f"labels are too few to take a {name} split from, which needs {keep + 1} different texts of a class; add "
            f"rows, give a folder with a {name} file of its own, or name the right columns"
        )
    return (
        rows.take(i for i, key in enumerate(keys) if key not in taken),
        rows.take(i for i, key in enumerate(keys) if key in taken),
    )
