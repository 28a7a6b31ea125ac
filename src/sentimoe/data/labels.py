"""Labels as written to label indices and names."""

import re

from sentimoe.data.rows import Rows
from sentimoe.errors import DataError

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_SHOWN = 20


def name_labels(train: Rows, preset_names: tuple[str, ...] | None) -> tuple[tuple[str, ...], dict[str, int]]:
    """(label names, written label -> index), both decided by the training rows alone.

    Integer labels index ``preset_names``; without them they are sorted as numbers and named by their digits. String
    labels are sorted naturally ("2 stars" before "10 stars"), or as in ``preset_names`` when they are exactly these.

    Raises:
        DataError: one class only, labels that blanks alone tell apart, or integer labels other than those that
            ``preset_names`` calls for.
    """
    written = set(train.labels)
    if alike := {f'"{label}"' for label in written if label != label.strip() and label.strip() in written}:
        raise DataError(f"{train.origin}: other labels differ from {_listed(alike)} by blanks alone; write them alike")
    if len(written) == 1:
        only = next(iter(written))
        raise DataError(f'{train.origin}: all {len(train)} training rows have the label "{only}"; add a second class')
    integers = all(map(_INTEGER.fullmatch, written))
    if preset_names and integers:
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
        names = tuple(sorted(written, key=int if integers else _natural))
    return names, {name: i for i, name in enumerate(names)}


def label_indices(rows: Rows, index: dict[str, int]) -> list[int]:
    """The index of each row's label. Raises DataError, with the row, at a label that ``index`` lacks."""
    for number, label in zip(rows.numbers, rows.labels, strict=True):
        if label not in index:
            raise DataError(
                f'{rows.origin}, row {number}: unknown label "{label}"; the training labels are {_listed(index)}. '
                "Correct the label, delete the row, or add training rows with that label"
            )
    return [index[label] for label in rows.labels]


def _natural(label: str) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", label)  # text and digits take turns, so like is compared with like
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], label


def _listed(labels: dict[str, int] | set[str]) -> str:
    ordered = sorted(labels, key=_natural)
    return ", ".join(ordered[:_SHOWN]) + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")
