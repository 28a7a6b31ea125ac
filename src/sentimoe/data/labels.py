"""Labels as written to label indices and names."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal

from ..errors import DataError
from .dataset import Split
from .rows import INTEGER, Rows
from .text import listed

_NUMBER = re.compile(r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,3})?")


def name_labels(train: Rows, preset_names: tuple[str, ...] | None) -> tuple[tuple[str, ...], dict[str, int]]:
    """(label names, written label -> index), both decided by the training rows alone.

    Integer labels index ``preset_names``; without them they keep their digits as names. Where all labels are numbers
    they are sorted as such (-1.0, -0.5, 1.0), others naturally ("2 stars" before "10 stars"), or as in ``preset_names``
    when they are exactly these.

    Raises:
        DataError: one class only, labels that blanks alone tell apart, or integer labels other than those that
            ``preset_names`` calls for.
    """
    written = set(train.labels)
    if alike := {f'"{label}"' for label in written if label != label.strip() and label.strip() in written}:
        raise DataError(f"{train.origin}: other labels differ from {_listed(alike)} by blanks alone; write them alike")
    if len(written) == 1:
        only = next(iter(written))
        raise DataError(
            f'{train.origin}: all {len(train)} training rows have the label "{listed([only])}"; add a second class'
        )
    if preset_names and all(map(INTEGER.fullmatch, written)):
        expected = {str(i): i for i in range(len(preset_names))}
        if written != set(expected):
            raise DataError(
                f"{train.origin}: the preset of this name has labels {_listed(expected)} ({', '.join(preset_names)}) "
                f"but these training rows have {_listed(written)}; complete the rows, or rename the folder if it is "
                "another data set"
            )
        return preset_names, expected
    if preset_names and written == set(preset_names):
        names = preset_names
    else:
        names = label_order(written)
    return names, {name: i for i, name in enumerate(names)}


def label_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Each label once: as numbers where all of them are, else naturally ("2 stars" before "10 stars")."""
    return tuple(_sorted(set(labels)))


def label_indices(rows: Rows, index: dict[str, int]) -> list[int]:
    """The index of each row's label. Raises DataError, with the row, at a label that ``index`` lacks."""
    for number, label in zip(rows.numbers, rows.labels, strict=True):
        if label not in index:
            raise DataError(
                f'{rows.origin}, row {number}: unknown label "{listed([label])}"; the training labels are '
                f"{_listed(index)}. Correct the label, delete the row, or add training rows with that label"
            )
    return [index[label] for label in rows.labels]


def alike_warnings(label_names: Iterable[str]) -> tuple[str, ...]:
    """One sentence for each group of labels that look like one: they differ by case, Unicode form or spelling of a
    number (1 and 1.0) alone."""
    groups: dict[str | Decimal, list[str]] = {}
    for name in label_names:
        folded = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(Decimal(folded) if _NUMBER.fullmatch(folded) else folded, []).append(name)
    return tuple(
        f"labels {', '.join(map(repr, names))} differ by case, Unicode form or spelling of a number alone and count as "
        f"{len(names)} classes; write them alike if they are one."
        for names in groups.values()
        if len(names) > 1
    )


def absence_warnings(label_names: Sequence[str], splits: dict[str, Split]) -> tuple[str, ...]:
    """One sentence for each split that lacks a class, whose scores then say nothing of it."""
    absent = {name: set(range(len(label_names))) - set(split.labels) for name, split in splits.items()}
    return tuple(
        f"{name} has no text with the label {_listed({label_names[i] for i in found})}: its scores say nothing of it, "
        "and it counts 0 in macro averages if it is given as an answer, else not at all."
        for name, found in absent.items()
        if found
    )


def _sorted(labels: Iterable[str]) -> list[str]:
    by_name = sorted(labels, key=_natural)
    return sorted(by_name, key=Decimal) if all(map(_NUMBER.fullmatch, by_name)) else by_name


def _natural(label: str) -> tuple[list[str | Decimal], str]:
    parts = re.split(r"([0-9]+)", label)  # text and digits take turns, so like is compared with like
    return [Decimal(part) if i % 2 else part for i, part in enumerate(parts)], label


def _listed(labels: Iterable[str]) -> str:
    return listed(_sorted(labels))
