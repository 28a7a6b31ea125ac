"""What `compress` gains on real data: speed, agreement and F1 on test texts that neither search nor certificate saw.

A dense model is trained on a few thousand labelled texts and compressed with other texts of the same kind. Its own
bfloat16, on the same engine, is 1.00. Each case leaves a JSON in `results/compression/`, which docs/performance.md
shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pandas as pd

from sentimoe import SentimentClassifier
from sentimoe.compression import drift
from sentimoe.compression.quality import quality
from sentimoe.data import Split, load_dataset
from sentimoe.data.dataset import content_hash
from sentimoe.evaluation import interleaved, predicted_labels, ratio, upper_bound
from sentimoe.inference import Engine
from sentimoe.machine import hardware, versions
from sentimoe.model_folder import COMPRESSED
from sentimoe.records import read_json, write_json
from sentimoe.training import TrainConfig, train

TOLERANCE, MINUTES, ROUNDS, TIMED_TEXTS, SINGLE_TEXTS = 0.02, 60.0, 9, 2000, 200
OTHER_KINDS = {  # in the folder of the data sets; left out for a case that is certified on these or tested on them
    "tweets of another time": "tweets-unlabelled.parquet",
    "product and film reviews": "fdu-mtl/test.parquet",
}
OTHER_TEXTS = 3000


class Case(NamedTuple):
    """A data set, its backbone, and how many tokens are read.

    unlabelled: a file beside the data; None: its training texts. texts: how many `compress` is given. train_texts,
    epochs, eval_texts: how the dense model is trained, and on how many texts its best epoch is chosen.
    """

    data: str
    backbone: str
    max_length: int
    unlabelled: str | None
    texts: int
    train_texts: int = 8000
    epochs: int = 3
    eval_texts: int = 1500


CASES = {
    "tweets": Case("tweets", "all-MiniLM-L6-v2", 64, None, 26_000),
    "fdu-mtl": Case("fdu-mtl", "all-MiniLM-L6-v2", 128, "unlabelled.parquet", 16_000, epochs=2, eval_texts=500),
    "imdb": Case("imdb", "all-MiniLM-L6-v2", 256, "unsupervised.parquet", 10_000, 5000, epochs=2, eval_texts=500),
    "emotion": Case("tweeteval-emotion", "all-MiniLM-L6-v2", 64, "../tweets-unlabelled.parquet", 26_000),
    "tweets-mpnet": Case("tweets", "all-mpnet-base-v2", 64, None, 12_000, 3000, epochs=2, eval_texts=500),
}


def run_case(
    name: str, seed: int, *, data_root: Path, work: Path, results: Path, progress: Callable[[str], None]
) -> None:
    """Train, compress, measure; what is there already is not made again."""
    path, elsewhere = (results / f"{name}__s{seed}{end}.json" for end in ("", "__elsewhere"))
    if path.exists() and elsewhere.exists():
        return
    case, dense, fast = CASES[name], work / f"{name}-s{seed}", work / f"{name}-s{seed}-fast"
    source = data_root / case.data
    config = trained(name, seed, dense, source, progress)
    dataset = load_dataset(config.data)
    classifier = SentimentClassifier.from_pretrained(dense, precision="float32")
    texts, labels = texts_of(case, dataset.splits["train"], dataset.label_names, source, seed)
    if not fast.exists():
        told: dict[str, Any] = {"max_disagreement": TOLERANCE, "minutes": MINUTES, "seed": seed, "labels": labels}
        classifier.compress(texts, fast, **told, progress=progress)
    about = read_json(fast / COMPRESSED)
    test = dataset.splits["test"]
    results.mkdir(parents=True, exist_ok=True)
    if not elsewhere.exists():
        progress(f"{name}, seed {seed}: measuring on texts of other kinds")
        own = {(source / (case.unlabelled or "")).resolve(), (source / "test.parquet").resolve()}
        kinds = {"test texts": test.sample(OTHER_TEXTS).texts} | {
            kind: pd.read_parquet(data_root / file).iloc[:, 0].sample(OTHER_TEXTS, random_state=0).tolist()
            for kind, file in OTHER_KINDS.items()
            if (data_root / file).resolve() not in own
        }
        write_json(elsewhere, [{"kind": kind} | _drifted(classifier, fast, about, kinds[kind]) for kind in kinds])
    if path.exists():
        return
    progress(f"{name}, seed {seed}: measuring on test texts")
    write_json(
        path,
        {"case": case._asdict(), "seed": seed, "certificate": about, "test": _on_test(classifier, fast, about, test)}
        | {"test_sha256": content_hash({"test": test}), "versions": versions(), "hardware": hardware()},
    )


def trained(name: str, seed: int, dense: Path, source: Path, progress: Callable[[str], None]) -> TrainConfig:
    """Train the dense model of a case where it is not there; what it was trained with."""
    case = CASES[name]
    config = TrainConfig(
        data=str(source) if source.is_dir() else case.data, model=case.backbone, method="full", epochs=case.epochs,
        train_limit=case.train_texts, eval_limit=case.eval_texts, max_length=case.max_length, seed=seed,
    )  # fmt: skip
    if not (dense / "run.json").is_file():
        progress(f"{name}, seed {seed}: training")
        train(config, dense, resume=True)
    return config


def texts_of(
    case: Case, train_split: Split, names: Sequence[str], source: Path, seed: int
) -> tuple[list[str], list[str] | None]:
    """What a case gives `compress` to read, and the labels where there are any."""
    if case.unlabelled is None:
        part = train_split.sample(case.texts, seed)
        return part.texts, [names[label] for label in part.labels]
    return pd.read_parquet(source / case.unlabelled)["text"].sample(case.texts, random_state=seed).tolist(), None


def _on_test(classifier: SentimentClassifier, fast: Path, about: dict[str, Any], test: Split) -> list[dict[str, Any]]:
    """A row for each tolerance that was certified: what differs on test texts, F1 of both, and speed."""
    tokenizer = classifier.tokenizer
    assert tokenizer is not None
    true = predicted_labels(classifier.predict_proba(test.texts))
    original = Engine(classifier.model, tokenizer, backend="openvino")
    timed = test.sample(TIMED_TEXTS).texts
    engines = {
        each["tolerance"]: SentimentClassifier.from_pretrained(fast, max_disagreement=each["tolerance"]).engine
        for each in about["certificates"]
    }
    tasks = {"original": lambda: original.predict_proba(timed)} | {
        str(tolerance): lambda engine=engine: engine.predict_proba(timed) for tolerance, engine in engines.items()
    }
    seconds = interleaved(tasks, ROUNDS)
    single = _one_by_one({"original": original} | {str(each): engine for each, engine in engines.items()}, timed)
    rows = []
    for tolerance, engine in engines.items():
        answers = engine.predict(test.texts)
        labels = predicted_labels(answers.probabilities)
        differ, layers = int((labels != true).sum()), answers.layers
        rows.append(
            {
                "tolerance": tolerance,
                "texts": len(test),
                "differ": differ,
                "upper_bound": upper_bound(differ, len(test)),
                "mean_layers": None if layers is None else float(layers.mean()),
                "quality": quality(pd.Series(test.labels).to_numpy(), true, labels, 0),
                "speed": ratio(seconds["original"], seconds[str(tolerance)]),
                "texts_per_second": len(timed) / median(seconds[str(tolerance)]),
                "original_texts_per_second": len(timed) / median(seconds["original"]),
                "single": ratio(single["original"], single[str(tolerance)]),
                "single_ms": 1000 * median(single[str(tolerance)]) / SINGLE_TEXTS,
                "original_single_ms": 1000 * median(single["original"]) / SINGLE_TEXTS,
            }
        )
    return rows


def _one_by_one(engines: dict[str, Any], texts: Sequence[str]) -> dict[str, list[float]]:
    """The seconds of each engine for some texts, each in a call of its own."""

    def answer(engine: Any) -> None:
        for text in texts[:SINGLE_TEXTS]:
            engine.predict_proba([text])

    return interleaved({name: partial(answer, engine) for name, engine in engines.items()}, ROUNDS)


def _drifted(classifier: SentimentClassifier, fast: Path, about: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """How many labels differ on texts of some kind, and what `predict` says of the kind."""
    found = SentimentClassifier.from_pretrained(fast).engine.predict(texts)
    certificate = next(each for each in about["certificates"] if each["tolerance"] == about["default_tolerance"])
    assert found.layers is not None
    told = drift(certificate, Counter(found.layers.tolist()))
    differ = predicted_labels(found.probabilities) != predicted_labels(classifier.predict_proba(texts))
    return {
        "texts": len(texts),
        "differ": int(differ.sum()),
        "tolerance": certificate["tolerance"],
        "total_variation": None if told is None else told.total_variation,
        "p": None if told is None else told.p,
        "warned": told is not None and told.found,
    }


def compressions(results: Path) -> list[dict[str, Any]]:
    """What docs/performance.md shows, by case and seed."""
    return [
        read_json(path) | {"elsewhere": read_json(path.with_name(f"{path.stem}__elsewhere.json"))}
        for path in sorted(results.glob("*__s*.json"))
        if not path.stem.endswith("__elsewhere")
    ]
