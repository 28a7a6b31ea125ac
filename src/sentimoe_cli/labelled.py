"""Labelled texts to score: every row of a file, one split of a preset or folder, or a hub id."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sentimoe_settings.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sentimoe.data import SentimentDataset, Split


@dataclass(frozen=True)
class Labelled:
    """part: the texts to score, a split of the data set. groups: their values in another column."""

    dataset: SentimentDataset
    split: str
    whole: bool
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
) -> Labelled:
    """Raises ConfigError and DataError."""
    from sentimoe.data import PRESETS, WHOLE, FileFormat, load_dataset, read_whole_file

    whole = data not in PRESETS and os.path.isfile(os.path.expanduser(data))
    options: dict[str, Any] = {"text_column": text_column, "label_column": label_column, "strict": strict}
    file_format = FileFormat(encoding, delimiter)
    if whole:
        if split is not None:
            raise ConfigError(f"{data} is one file, and every row of it is scored; --split is for presets and folders")
        file = read_whole_file(data, **options, file_format=file_format, beside=by)
        return Labelled(file.dataset, WHOLE, True, file.beside)
    if by is not None:
        raise ConfigError(f"--by names a column of a file; {data} is none")
    dataset = load_dataset(data, **options, file_format=file_format)
    split = split or "test"
    if split not in dataset.splits:
        raise DataError(f"{data} has no split {split!r}; it has {', '.join(dataset.splits)}")
    return Labelled(dataset, split, False)
