"""How well each way of training does on 50 to 3,000 labelled texts; docs/sizes.md is rendered from its results.

Each is given the same texts, drawn at random from a training split, holds out of them what it needs itself, and is
tested on the same test texts. "sentimoe" is `SentimentClassifier` with the settings that a user gets, at 64 tokens.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline

from sentimoe import SentimentClassifier
from sentimoe.data import Split, load_dataset
from sentimoe.data.dataset import content_hash
from sentimoe.evaluation import label_scores, predicted_labels
from sentimoe.inference import Engine
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json
from sentimoe.upcycle import backbone_path

DATA = ("tweeteval-emotion", "sst5", "fdu-mtl", "tweets")
SIZES, DRAWS = (50, 300, 1000, 3000), (0, 1, 2)
TEST_TEXTS, TOKENS, BACKBONE = 2000, 64, "all-MiniLM-L6-v2"
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

Way = Callable[[Split, Split, int], np.ndarray]  # training texts, test texts, seed -> predicted labels `[B]`


RIVALS = ("tfidf", "frozen", "setfit")
LARGEST = {"setfit": 300}  # texts; more take hours


class Cell(NamedTuple):
    """One way on one draw of texts."""

    data: str
    size: int
    draw: int
    way: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.data}__n{self.size}__{self.way}__d{self.draw}.json"


def sentimoe(train: Split, test: Split, seed: int) -> np.ndarray:
    """Our defaults, dense."""
    classifier = SentimentClassifier(model=BACKBONE, max_length=TOKENS, method="full", seed=seed)
    classifier.fit(train.texts, train.labels)
    assert classifier.tokenizer is not None
    engine = Engine(classifier.model, classifier.tokenizer, max_length=TOKENS, long_texts="truncate")
    return np.asarray(classifier.classes_)[predicted_labels(engine.predict_proba(test.texts))]


def tfidf(train: Split, test: Split, seed: int) -> np.ndarray:
    """TF-IDF of words and word pairs, logistic regression."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode")
    pipeline = make_pipeline(words, LogisticRegression(max_iter=2000))
    return (
        _searched(pipeline, "logisticregression__C", train.labels, seed)
        .fit(train.texts, train.labels)
        .predict(test.texts)
    )


def frozen(train: Split, test: Split, seed: int) -> np.ndarray:
    """Logistic regression on the embeddings of the backbone as it is."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(backbone_path(BACKBONE), device="cpu")
    model.max_seq_length = TOKENS

    def read(split: Split) -> np.ndarray:
        return model.encode(split.texts, batch_size=64, show_progress_bar=False)

    regression = _searched(LogisticRegression(max_iter=2000), "C", train.labels, seed)
    return regression.fit(read(train), train.labels).predict(read(test))


def _searched(model: Any, name: str, labels: list[int], seed: int) -> Any:
    """The model with its C chosen by cross-validation, where the rarest class has two texts."""
    folds = min(5, np.unique(labels, return_counts=True)[1].min())
    if folds < 2:
        return model.set_params(**{name: 10.0})
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return GridSearchCV(model, {name: STRENGTHS}, scoring="f1_macro", cv=split)


def setfit(train: Split, test: Split, seed: int) -> np.ndarray:
    """SetFit (Tunstall et al. 2022) with 20 pairs of each kind a text, its default."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments

    body = SentenceTransformer(backbone_path(BACKBONE), device="cpu")
    body.max_seq_length = TOKENS
    model = SetFitModel(model_body=body, model_head=LogisticRegression(max_iter=2000))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, batch_size=16, num_iterations=20, num_epochs=1, show_progress_bar=False, report_to="none", seed=seed
        )
        rows = Dataset.from_dict({"text": train.texts, "label": train.labels})
        Trainer(model, arguments, train_dataset=rows).train()
    return np.asarray(model.predict(test.texts, batch_size=64, as_numpy=True))


WAYS: dict[str, Way] = {"tfidf": tfidf, "frozen": frozen, "sentimoe": sentimoe, "setfit": setfit}


def run_cells(cells: list[Cell], results: Path, data_root: Path, progress: Callable[[str], None]) -> None:
    """Do what has no result yet; each leaves a JSON in `results`."""
    for cell in cells:
        path = results / cell.name
        if path.exists():
            continue
        source = data_root / cell.data
        dataset = load_dataset(str(source) if source.is_dir() else cell.data)
        train, test = dataset.splits["train"].sample(cell.size, cell.draw), dataset.splits["test"].sample(TEST_TEXTS)
        started = time.perf_counter()
        predicted = WAYS[cell.way](train, test, cell.draw)
        seconds = time.perf_counter() - started
        scores = label_scores(test.labels, predicted)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = cell._asdict() | scores | {
            "seconds": round(seconds, 1), "train_sha256": content_hash({"train": train}), "test_texts": len(test),
            "test_sha256": content_hash({"test": test}), "tokens": TOKENS, "backbone": BACKBONE, "versions": versions(),
            "hardware": hardware(),
        }  # fmt: skip
        write_json(path, record)
        progress(f"{cell.name}: macro F1 {scores['f1_macro']:.4f}, {seconds:.0f} s")


def summary(results: Path) -> dict[str, Any]:
    """What docs/sizes.md shows: of each data set and number of texts the mean macro F1 of every way, and who leads."""
    records = [read_json(path) for path in sorted(results.glob("*.json"))]
    cells = {(record["data"], record["size"], record["way"], record["draw"]): record for record in records}
    rows = []
    for data in DATA:
        for size in SIZES:
            scores: dict[str, dict[int, float]] = {}
            for (name, count, way, draw), record in cells.items():
                if (name, count) == (data, size):
                    scores.setdefault(way, {})[draw] = record["f1_macro"]
            if scores:
                told = {way: {"mean": mean(found.values()), "draws": len(found)} for way, found in scores.items()}
                rows.append({"data": data, "size": size, "scores": told, "less": _lead(scores)})
    wanted = [
        (data, size, way, draw)
        for data in DATA
        for size in SIZES
        for way in WAYS
        for draw in DRAWS
        if size <= LARGEST.get(way, max(SIZES))
    ]
    missing = sum(cell not in cells for cell in wanted)
    texts = max((record["test_texts"] for record in records), default=TEST_TEXTS)
    return {"rows": rows, "missing": missing, "wanted": len(wanted), "test_texts": texts}


def _lead(scores: dict[str, dict[int, float]]) -> float | None:
    """Our mean less that of the best rival, over the draws that both have."""
    ours, found = scores.get("sentimoe", {}), []
    for way in RIVALS:
        draws = set(ours) & set(scores.get(way, {}))
        if draws:
            found.append(mean(ours[draw] - scores[way][draw] for draw in draws))
    return min(found, default=None)
