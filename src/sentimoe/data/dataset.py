"""What every loader hands back: checked texts with label indices, and a hash that names them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import DataError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Texts and their labels, both of the same length; ``labels[i]`` indexes the data set's ``label_names``."""

    texts: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.texts)

    def sample(self, count: int, seed: int = 0) -> "Split":
        """``count`` of the texts at random, in their order, the same ones for the same seed; all if there are fewer."""
        if count >= len(self):
            return self
        chosen = self.places(count, seed)
        return Split([self.texts[i] for i in chosen], [self.labels[i] for i in chosen])

    def places(self, count: int, seed: int = 0) -> list[int]:
        """Where the texts of `sample` stand, from 0."""
        return sorted(np.random.default_rng(seed).permutation(len(self))[:count].tolist())


@dataclass(frozen=True)
class SentimentDataset:
    """A data set ready to train on.

    ``splits`` holds "train", "validation" and, where there is one, "test", in that order. ``sha256`` is
    :func:`content_hash` of them. Each of ``warnings`` is one sentence that a reader of the results should see.
    ``label_type`` is "int" where the labels were given as integers and have no other names, and "str" otherwise; it
    says in which form a model answers, and does not make another data set. ``unscored`` are texts of validation and
    test that a limit left out; nothing may learn on them either.
    """

    name: str
    label_names: tuple[str, ...]
    splits: dict[str, Split]
    sha256: str
    warnings: tuple[str, ...]
    label_type: str = field(default="str", compare=False)
    unscored: tuple[str, ...] = field(default=(), compare=False)

    def with_eval_limit(self, count: int) -> "SentimentDataset":
        """The same data with at most ``count`` texts in every split but "train", drawn at random; the hash stays."""
        splits = {name: part if name == "train" else part.sample(count) for name, part in self.splits.items()}
        scored = {text for part in splits.values() for text in part.texts}
        left = (text for part in self.splits.values() for text in part.texts if text not in scored)
        return replace(self, splits=splits, unscored=tuple(left))

    def with_label_order(self, names: Sequence[str]) -> "SentimentDataset":
        """The same data with its labels in this order, such as that of a stored classifier; the hash stays.

        Raises DataError when these are other labels.
        """
        if sorted(names) != sorted(self.label_names):
            raise DataError(
                f"the model's labels {list(names)} are not those of {self.name}, {list(self.label_names)}; "
                "give data with the same labels"
            )
        return self.with_labels_of(names)

    def with_labels_of(self, names: Sequence[str]) -> "SentimentDataset":
        """The same data with the labels of a classifier, which may know more than the data have; the hash stays.

        Raises DataError at a label that the classifier does not know.
        """
        if unknown := [name for name in self.label_names if name not in names]:
            raise DataError(
                f"{self.name} has labels that the model does not know ({', '.join(unknown)}); it answers "
                f"{', '.join(names)}. On the command line, --map-labels {unknown[0]}=LABEL,... reads them as "
                "these; leave out rows of a label that the model cannot answer"
            )
        index = [names.index(name) for name in self.label_names]
        splits = {split: Split(part.texts, [index[i] for i in part.labels]) for split, part in self.splits.items()}
        return replace(self, label_names=tuple(names), splits=splits)

    def with_labels_renamed(self, names: Mapping[str, str]) -> "SentimentDataset":
        """The same data with some labels under another name; labels of one name become one. The hash stays.

        Raises DataError at a label that the data do not have.
        """
        if unknown := [name for name in names if name not in self.label_names]:
            raise DataError(
                f"{self.name} has no label {', '.join(map(repr, unknown))} to rename; it has "
                f"{', '.join(self.label_names)}"
            )
        renamed = [names.get(name, name) for name in self.label_names]
        kept = tuple(dict.fromkeys(renamed))
        index = [kept.index(name) for name in renamed]
        splits = {split: Split(part.texts, [index[i] for i in part.labels]) for split, part in self.splits.items()}
        return replace(self, label_names=kept, splits=splits)

    def summary(self) -> dict[str, Any]:
        """JSON-able: name, sha256, label names, warnings, and rows per split, whole and per class."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "label_names": list(self.label_names),
            "splits": {
                split: {
                    "rows": len(part),
                    "rows_per_class": {name: part.labels.count(i) for i, name in enumerate(self.label_names)},
                }
                for split, part in self.splits.items()
            },
            "warnings": list(self.warnings),
        }


def content_hash(splits: dict[str, Split]) -> str:
    """SHA-256 (hex) over split names, texts and label indices, in order; the same on every machine."""
    digest = hashlib.sha256()

    def add(field: str) -> None:
        # the length in front keeps ("ab", "c") and ("a", "bc") apart
        encoded = field.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)

    for name, split in splits.items():
        add(name)
        add(str(len(split)))
        for text, label in zip(split.texts, split.labels, strict=True):
            add(text)
            add(str(label))
    return digest.hexdigest()
