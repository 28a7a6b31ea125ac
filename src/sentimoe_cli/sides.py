"""The two sides of `compare`: a model that answers now, or the answers in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sentimoe import SentimentClassifier
from sentimoe.data import FileFormat, labels_of
from sentimoe.data.reading import read_table
from sentimoe.data.rows import find_column
from sentimoe.errors import DataError

from .labelled import Labelled
from .messages import say
from .models import load_model
from .seen import seen_among, seen_warning
from .stream import predictions_with_bar


@dataclass(frozen=True)
class ModelSide:
    """A classifier. names: all labels that it can give."""

    name: str
    classifier: SentimentClassifier

    @classmethod
    def load(cls, name: str, trust_remote_code: bool, verify: bool, precision: str) -> ModelSide:
        """Raises what `load_model` raises."""
        return cls(name, load_model(name, None, (), "calibrated", "", trust_remote_code, verify, precision=precision))

    @property
    def names(self) -> list[str]:
        return self.classifier.label_names

    def probabilities(self, texts: Sequence[str], names: Sequence[str]) -> NDArray[np.floating[Any]]:
        """`[B, C]` of these classes; a row of NaN: no answer."""
        columns = [self.names.index(label) for label in names]
        return predictions_with_bar(self.classifier.engine, texts).probabilities[:, columns]

    def seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which texts it was trained on, `[B]`; says how many, or that it is not known."""
        if (seen := self.classifier.seen_texts) is None or not seen.complete:
            say(f"warning: {self.name} does not say which texts it was trained on; some of these may be among them")
        if (known := seen_among(self.classifier.seen_texts, texts)).any():
            say(f"warning: {seen_warning(self.name, known)}")
        return known


@dataclass(frozen=True)
class FileSide:
    """Answers that `predict`, or another tool, wrote beside the texts. labels, scores: B; None and NaN: no answer."""

    labels: list[str | None]
    scores: NDArray[np.float64]

    @classmethod
    def read(cls, path: str, found: Labelled, text_column: str | None, usual: str | None) -> FileSide:
        """The answers in the columns `label` and, if there is one, `score`, to labelled texts.

        The file must have the rows of the data, in order; where it has their texts, these are compared. usual: their
        column, if none is named. Raises DataError.
        """
        frame = read_table(path, FileFormat()).frame
        if "label" not in frame.columns:
            raise DataError(f'{path} has no column "label" with the answers; write it with sentimoe predict --output')
        if len(frame) != found.rows:
            raise DataError(
                f"{path} has {len(frame)} rows and the data {found.rows}; give answers to just these rows, in order"
            )
        places = [number - 1 for number in found.numbers]
        try:
            given = frame[find_column(frame, path, text_column, "text", usual)].tolist()
        except DataError:
            say(f"note: {path} has no column of texts, so its rows are taken for those of the data, in order")
        else:
            for place, text in zip(places, found.part.texts, strict=True):
                if str(given[place]).split() != text.split():
                    raise DataError(
                        f"{path}, row {place + 1}: another text than in the data; give answers to just these rows"
                    )
        labels = labels_of(frame, path, "label")
        column = frame["score"] if "score" in frame.columns else pd.Series(np.nan, index=frame.index)
        scores = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        return cls([labels[place] for place in places], scores[places])

    @property
    def names(self) -> list[str]:
        """The labels that are among the answers."""
        return list(dict.fromkeys(label for label in self.labels if label is not None))

    def probabilities(self, texts: Sequence[str], names: Sequence[str]) -> NDArray[np.float64]:
        """`[B, C]` of these classes: the score for the answer, the rest in equal parts for the others; NaN: no answer.

        An answer without a score, or with one that would make another class likelier, gets 1.
        """
        found = np.full((len(texts), len(names)), np.nan)
        for row, (label, score) in enumerate(zip(self.labels, self.scores, strict=True)):
            if label is not None:
                sure = score if 1 / len(names) < score <= 1 else 1.0
                found[row] = (1 - sure) / (len(names) - 1)
                found[row, names.index(label)] = sure
        return found

    def seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """No text: it is not known who wrote the answers, and from what."""
        return np.zeros(len(texts), dtype=bool)


def names_of(sides: Sequence[ModelSide | FileSide], given: Sequence[str], data: Sequence[str]) -> list[str]:
    """The labels that are compared: those of the models, or of two files all that occur. given: names of the sides.

    data: the labels of the texts. Raises ConfigError where the sides do not agree.
    """
    from sentimoe.data.labels import label_order
    from sentimoe.errors import ConfigError

    models = [side for side in sides if isinstance(side, ModelSide)]
    ordered = [model for model in models if model.classifier.ordinal]
    names = list(label_order({*data, *(each for side in sides for each in side.names)}))
    names = (ordered or models)[0].names if models else names
    wrong = any(sorted(model.names) != sorted(names) for model in models)
    if wrong or not all(set(side.names) <= set(names) for side in sides):
        raise ConfigError(f"{given[1]} has the labels {sides[1].names}, {given[0]} {sides[0].names}; they must agree")
    if any(model.names not in (names, names[::-1]) for model in ordered):
        raise ConfigError(f"{given[1]} orders its labels {sides[1].names}, {given[0]} {sides[0].names}; train one anew")
    if len(names) < 2:
        raise ConfigError(f"{', '.join(names)} is the only label of data and answers; it takes two to compare")
    return names
