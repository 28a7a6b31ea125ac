"""Labelled texts to score: every row of a file, one split of a preset or folder, or a hub id."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sentimoe_settings.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sentimoe.data import SentimentDataset, Split


@dataclass(frozen=True)
class Labelled:
    """part: the texts to score, a split of the data set. numbers: of their rows in the file or split, from 1; rows: how
    many that has. groups: their values in another column."""

    dataset: SentimentDataset
    split: str
    whole: bool
    numbers: Sequence[int]
    rows: int
    groups: list[str] | None = None

    @property
    def part(self) -> Split:
        return self.dataset.splits[self.split]


def read_labelled(
    data: str,
    split: str | None,
    text_column: str | None,
    label_column: str | None,
    delimiter: str | None,
    encoding: str | None,
    strict: bool,
    by: str | None = None,
    map_labels: str | None = None,
    *,
    model: str | None = None,
    usual_split: str = "test",
) -> Labelled:
    """by: a column of a file, for `groups`. map_labels: as in `renamed_labels`. model: whose columns are the usual ones.
    usual_split: what is read of a preset, folder or hub id if `split` names nothing.

    Raises ConfigError and DataError.
    """
    from sentimoe.data import PRESETS, WHOLE, load_dataset, read_whole_file

    from .models import usual_format

    whole = data not in PRESETS and os.path.isfile(os.path.expanduser(data))
    options: dict[str, Any] = {"text_column": text_column, "label_column": label_column, "strict": strict}
    file_format = usual_format(model, encoding, delimiter)
    if whole:
        if split is not None:
            raise ConfigError(f"{data} is one file, and every row of it is scored; --split is for presets and folders")
        file = read_whole_file(data, **options, file_format=file_format, beside=by)
        return Labelled(renamed_labels(file.dataset, map_labels), WHOLE, True, file.numbers, file.rows, file.beside)
    if by is not None:
        raise ConfigError(f"--by names a column of a file; {data} is none")
    dataset = load_dataset(data, **options, file_format=file_format)
    split = split or usual_split
    if split not in dataset.splits:
        raise DataError(f"{data} has no split {split!r}; it has {', '.join(dataset.splits)}")
    count = len(dataset.splits[split])
    return Labelled(renamed_labels(dataset, map_labels), split, False, range(1, count + 1), count)


def renamed_labels(dataset: SentimentDataset, given: str | None) -> SentimentDataset:
    """The data set with its labels renamed, as in "neg=negative,pos=positive". Raises ConfigError and DataError."""
    if given is None:
        return dataset
    parts = [pair.partition("=") for pair in given.split(",")]
    pairs = [(old.strip(), new.strip()) for old, _, new in parts]
    if not all(old and new for old, new in pairs):
        raise ConfigError(
            f"--map-labels {given!r} must pair a label of the data with the one to read it as, such as "
            "neg=negative,pos=positive"
        )
    if repeated := [label for label, count in Counter(old for old, _ in pairs).items() if count > 1]:
        raise ConfigError(f"--map-labels {given!r} names {', '.join(repeated)} more than once")
    return dataset.with_labels_renamed(dict(pairs))
