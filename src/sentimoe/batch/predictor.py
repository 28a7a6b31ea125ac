"""A classifier as a function of batches of columns: for bulk jobs, Ray Data, Daft and pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from ..classifier import SentimentClassifier
from ..data import clean_text
from ..data.characters import UNDECODABLE, is_marked
from ..data.predicted import STRING, made_up, named_domains, probability_names, with_predictions
from ..data.rows import cells
from ..errors import ConfigError, DataError, PredictionError
from ..inference import Engine, OpenVINOClassifier, RoutedClassifier, StagedClassifier, is_compressed, made_elsewhere
from ..manifest import sha256
from ..model_folder import COMPRESSED, THRESHOLD, find_folder, read_object
from ..predictions import Predictions, joined

BLANK, DOUBTFUL = "blank", "doubtful"
UNREADABLE, NO_TEXT, TOO_LONG, NO_MEMORY = "undecodable", "not a text", "too long", "out of memory"
NO_ANSWER, DIED = "no finite answer", "process died"
HALVED = "halved"  # in the `attrs` of a labelled frame: how often memory ran out
REJECTED = (UNREADABLE, NO_TEXT, TOO_LONG, NO_MEMORY, NO_ANSWER, DIED)
OUT_OF_MEMORY = ("can't allocate memory", "bad allocation", "bad_alloc", "out of memory")


class Predictor:
    """Adds `label`, `score` and `reason` to a batch of columns, as `sentimoe predict` does.

    model: a folder, a ready model or a hub id. text_column: the column of the texts. max_characters: longer texts are
    rejected; None: none are. all_answers: label doubtful texts too, whatever threshold the model has. probabilities:
    add the probability of each class, in columns `prob_CLASS`. settings: of `SentimentClassifier.from_pretrained`.

    A row without an answer has a null as its label, and the reason: `blank`; `doubtful` (below the model's threshold);
    or, if it was rejected, `undecodable`, `not a text`, `too long`, `out of memory`, `no finite answer`, or `process
    died` (on Ray, where it ended three processes). Threads may share one. It is pickled without its model, which is
    loaded on arrival.

    Example:
        >>> reviews.map_batches(Predictor, fn_constructor_kwargs={"model": "stars"}, num_cpus=1)  # Ray Data
        >>> labelled = Predictor("stars", text_column="review")(pandas_frame)
    """

    def __init__(
        self,
        model: str | Path = "sentiment",
        *,
        text_column: str = "text",
        max_characters: int | None = None,
        all_answers: bool = False,
        probabilities: bool = False,
        **settings: Any,
    ):
        self.folder = find_folder(model)
        self.settings = settings
        classifier = SentimentClassifier.from_pretrained(self.folder, **settings)
        assert isinstance(classifier.engine, Engine)
        self.engine, self.classes = classifier.engine, classifier.classes_.tolist()
        self.text_column, self.max_characters, self.all_answers = text_column, max_characters, all_answers
        self.probabilities = probabilities
        self.threshold = None if all_answers else _threshold_of(self.folder, settings.get("domain"))
        self.domains = classifier.domains
        self.counts_layers = isinstance(self.engine.model, StagedClassifier)
        self.uses_openvino = isinstance(self.engine.model, OpenVINOClassifier | StagedClassifier)
        self.marks_cuts = self.engine.long_texts == "truncate"

    def __call__(self, batch: Any) -> Any:
        """A DataFrame, an Arrow table or a mapping of arrays -> the same with more columns. Raises ConfigError."""
        if isinstance(batch, pd.DataFrame):
            return self.labelled(batch)
        if isinstance(batch, pa.Table):
            frame = batch.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
            return pa.Table.from_pandas(self.labelled(frame), preserve_index=False)
        if isinstance(batch, Mapping):
            given = {name: pd.Series(list(values), dtype=object) for name, values in batch.items()}
            if len({len(each) for each in given.values()}) > 1:  # pandas would fill the gaps
                lengths = ", ".join(f"{name} {len(each)}" for name, each in given.items())
                raise ConfigError(
                    f"the columns of a batch are of unequal lengths ({lengths}); give one value for each row"
                )
            found = self.labelled(pd.DataFrame(given))
            kept = dict(zip(found.columns, batch.values(), strict=False))  # they come first, and keep their types
            return {name: kept[name] if name in kept else _array(found[name]) for name in found.columns}
        raise ConfigError(f"a batch is a DataFrame, an Arrow table or a mapping of columns, not {type(batch).__name__}")

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("text_column", "max_characters", "all_answers", "probabilities")
        arguments: dict[str, Any] = {name: getattr(self, name) for name in names} | self.settings
        return partial(type(self), self.folder.resolve(), **arguments), ()

    def hashes(self, leave_out: Sequence[Path] = ()) -> dict[str, str]:
        """Of every file of the model, by its path in the folder. leave_out: files and folders that are not of it."""
        others = {path.resolve() for path in leave_out}
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        files = [path for path in files if others.isdisjoint((path.resolve(), *path.resolve().parents))]
        return {path.relative_to(self.folder).as_posix(): sha256(path) for path in files}

    @property
    def numbers(self) -> list[str]:
        """The columns of numbers that it adds."""
        each_class = probability_names(list(map(str, self.classes))) if self.probabilities else []
        more = {"layers": self.counts_layers, "domain_score": bool(self.domains)}
        return ["score", *each_class, *(name for name, added in more.items() if added)]

    def uncertified(self) -> list[str]:
        """Why the certificates of a compressed model may not hold on this machine, a clause each."""
        if not is_compressed(self.folder) or self.settings.get("max_disagreement") == 0:
            return []
        return made_elsewhere(read_object(self.folder / COMPRESSED), self.settings.get("precision", "auto"))

    def labelled(self, frame: pd.DataFrame, unread: str | None = None) -> pd.DataFrame:
        """The frame with what the model says of each row. unread: why no row is to be read, if so.

        Raises ConfigError where there is no column of texts.
        """
        if self.text_column not in frame.columns:
            raise ConfigError(
                f'no column "{self.text_column}"; the columns are {", ".join(map(str, frame.columns))}. Name the right '
                "one with text_column"
            )
        values = [value for _, value in cells(frame, "the input", self.text_column)]
        texts, reasons = self._checked(values) if unread is None else ([], [unread] * len(values))
        readable = [row for row, reason in enumerate(reasons) if reason is None]
        found, failed, halved = answered(self.engine, [texts[row] for row in readable])
        for place, why in failed.items():
            reasons[readable[place]] = why
        probabilities = np.full((len(frame), self.engine.num_labels), np.nan, dtype=np.float32)
        probabilities[readable] = found.probabilities
        for row in np.flatnonzero(np.isnan(probabilities[:, 0])):
            reasons[row] = reasons[row] or BLANK
        cut = [readable[place] for place in found.truncated] if self.marks_cuts else None
        layers = np.zeros(len(frame), dtype=np.int64) if self.counts_layers else None
        if layers is not None and found.layers is not None:
            layers[readable] = found.layers
        domains = self._no_domains(len(frame))
        if domains is not None and found.domains is not None and found.domain_scores is not None:
            domains[0][readable], domains[1][readable] = found.domains, found.domain_scores
        labelled = self._with(frame, probabilities, cut, layers, reasons, domains)
        if halved:
            labelled.attrs[HALVED] = halved
        return labelled

    def made_up(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame as it will look, with made-up answers that take as much room in a file."""
        count = len(frame)
        probabilities = made_up(count, self.engine.num_labels)
        cut: list[int] | None = [] if self.marks_cuts else None
        layers = np.zeros(count, dtype=np.int64) if self.counts_layers else None
        return self._with(frame, probabilities, cut, layers, [None] * count, self._no_domains(count))

    def _with(
        self,
        frame: pd.DataFrame,
        probabilities: np.ndarray,
        cut: list[int] | None,
        layers: np.ndarray | None,
        reasons: list[str | None],
        domains: tuple[np.ndarray, np.ndarray] | None,
    ) -> pd.DataFrame:
        plain, told = _without_marks(frame), named_domains(self.domains, *(domains or (None, None)))
        return with_predictions(
            plain, self.classes, probabilities, cut, self.threshold, layers, reasons, self.probabilities, told
        )

    def _no_domains(self, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Of a model with added domains, what `Predictions` says of rows that none of them answered."""
        return (np.full(count, -1), np.full(count, np.nan, dtype=np.float32)) if self.domains else None

    def _checked(self, values: Sequence[Any]) -> tuple[list[str], list[str | None]]:
        """The text of each row, and why it is not read."""
        texts, reasons = [], []
        for value in values:
            reason: str | None = None
            try:
                text = clean_text(value)
            except DataError:
                text, reason = "", NO_TEXT
            if UNDECODABLE in text:
                reason = UNREADABLE
            elif self.max_characters is not None and len(text) > self.max_characters:
                reason = TOO_LONG
            elif reason is None and not text.strip():
                reason = BLANK
            texts.append(text)
            reasons.append(reason)
        return texts, reasons


def _array(column: pd.Series) -> np.ndarray:
    """A column as an array, with None where strings or integers are missing."""
    missing = isinstance(column.dtype, pd.ArrowDtype) and bool(column.isna().any())
    return (column.astype(object).where(column.notna(), None) if missing else column).to_numpy()


def _threshold_of(folder: Path, domain: str | None) -> float | None:
    if not (folder / THRESHOLD).exists():
        return None
    from ..evaluation import Threshold  # brings scipy and scikit-learn

    stored = Threshold.load(folder, domain)
    return None if stored is None else stored.value


class Answered(NamedTuple):
    """predictions: B. failed: why texts fail alone, by their places. halved: how often memory ran out before."""

    predictions: Predictions
    failed: dict[int, str]
    halved: int


def answered(engine: Any, texts: Sequence[str]) -> Answered:
    """The answers; where memory runs out, or an answer is no number, halves are tried again."""
    try:
        return Answered(engine.predict(texts), {}, 0)
    except PredictionError:
        why, ran_out = NO_ANSWER, 0
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        why, ran_out = NO_MEMORY, 1
    if len(texts) == 1:
        told: dict[str, Any] = {}
        if isinstance(engine.model, StagedClassifier):
            told = {"layers": np.zeros(1, dtype=np.int64)}
        elif isinstance(engine.model, RoutedClassifier):
            told = {"domains": np.full(1, -1), "domain_scores": np.full(1, np.nan, dtype=np.float32)}
        return Answered(Predictions(np.full((1, engine.num_labels), np.nan, dtype=np.float32), **told), {0: why}, 0)
    half = len(texts) // 2
    first, second = answered(engine, texts[:half]), answered(engine, texts[half:])
    shifted = replace(second.predictions, truncated=[half + row for row in second.predictions.truncated])
    failed = first.failed | {half + place: each for place, each in second.failed.items()}
    halved = first.halved + second.halved + ran_out
    return Answered(joined([first.predictions, shifted], engine.num_labels), failed, halved)


def _is_memory(error: Exception) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(words in str(error) for words in OUT_OF_MEMORY)


def _without_marks(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with U+FFFD where bytes could not be decoded."""
    marked = [
        name
        for name, column in frame.items()
        if column.dtype == object or isinstance(column.dtype, pd.StringDtype) or column.dtype == STRING
        if any(map(is_marked, column))
    ]
    clean = frame.rename(columns=_replaced) if any(UNDECODABLE in str(name) for name in frame.columns) else frame
    if not marked:
        return clean
    clean = frame.copy()
    for name in marked:
        clean[name] = frame[name].map(_replaced).astype(frame[name].dtype)
    return clean.rename(columns=_replaced)


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(UNDECODABLE, "\ufffd")
    if isinstance(value, list):
        return [_replaced(each) for each in value]
    if isinstance(value, dict):
        return {_replaced(name): _replaced(each) for name, each in value.items()}
    return value
