"""Four label sets in one pass: reviews (2 classes), tweets (3), emotions (4) and stars (5) on one trunk.

One model has the 14 classes of all tasks. Its answer to a task is the softmax over the classes of that task, so one
forward pass answers all four. Beside it: a model of each task, trained on the same texts for as many epochs.
docs/where-experts-pay.md has the rule, which was written before any of these was trained.
Legend: B texts, C classes of all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sentimoe import SentimentClassifier
from sentimoe.bench.flops import gflops_per_text
from sentimoe.data.tweets import TWEET_LABELS, load_tweets
from sentimoe.evaluation import classification_metrics, interleaved, paired_bootstrap, ratio
from sentimoe.inference import Engine
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json
from sentimoe.training import TrainConfig, train

from .ready_data import SPLITS

TASKS = ("fdu-mtl", "tweets", "tweeteval-emotion", "sst5")
OVERLAPS = ("mr",)  # a domain of fdu-mtl whose sentences are those of SST-5
TOGETHER = "four-tasks"
LIMITS = {"train": 8_000, "validation": 500}  # texts of each task; all test texts are read
BACKBONE, EPOCHS, TOKENS, SEED, TIMED_TEXTS, ROUNDS = "all-MiniLM-L6-v2", 3, 128, 0, 256, 9
ROWS: dict[str, dict[str, Any]] = {
    "dense": {"method": "full"},
    "gated": {"method": "moe-gated", "method_settings": {"init_noise": 0.05}},
}


def split_of(task: str, split: str, data_root: Path) -> pd.DataFrame:
    """Texts and labels of a task; the labels begin with its name."""
    if task == "tweets":
        frame = load_tweets()[split].assign(label=lambda rows: rows["label"].map(lambda index: TWEET_LABELS[index]))
    else:
        frame = pd.read_parquet(data_root / task / f"{split}.parquet")
    if "domain" in frame:
        frame = frame[~frame["domain"].isin(OVERLAPS)]
    frame = frame[["text", "label"]].sample(frac=1, random_state=SEED)[: LIMITS.get(split)]
    return frame.assign(label=[f"{task}: {label}" for label in frame["label"]])


def write_tasks(data_root: Path, folder: Path) -> None:
    """Write each task and all together as data sets."""
    for split in SPLITS:
        parts = {task: split_of(task, split, data_root) for task in TASKS}
        for name, frame in (parts | {TOGETHER: pd.concat(list(parts.values()))}).items():
            path = folder / name / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                frame.to_parquet(path, index=False)


class Study:
    """work: keeps data and models."""

    def __init__(self, data_root: Path, work: Path, results: Path, progress: Callable[[str], None]):
        self.work, self.results, self.progress = work, results / "one-trunk", progress
        write_tasks(data_root, work / "data")

    def run(self) -> None:
        """Train, answer and measure what has no result yet."""
        self.results.mkdir(parents=True, exist_ok=True)
        for name, data, row in self.models():
            path = self.results / f"{name}.json"
            if not path.exists():
                write_json(path, self.measured(name, data, row))
                self.progress(f"{name} is measured")
        if not (self.results / "cost.json").exists():
            write_json(self.results / "cost.json", self.cost() | {"versions": versions(), "hardware": hardware()})

    def models(self) -> Iterator[tuple[str, str, str]]:
        """Name, data and row of each model."""
        yield from ((f"{task}-alone", task, "dense") for task in TASKS)
        yield from ((f"{TOGETHER}-{row}", TOGETHER, row) for row in ROWS)

    def engine(self, name: str, data: str, row: str) -> Engine:
        """A trained model, which is trained where it is missing."""
        folder = self.work / name
        if not (folder / "run.json").is_file():
            self.progress(f"{name}: training")
            config = TrainConfig(
                model=BACKBONE, data=str(self.work / "data" / data), epochs=EPOCHS, max_length=TOKENS, seed=SEED,
                **ROWS[row],
            )  # fmt: skip
            train(config, folder, resume=True)
        engine = SentimentClassifier.from_pretrained(folder, long_texts="truncate").engine
        assert isinstance(engine, Engine)
        return engine

    def measured(self, name: str, data: str, row: str) -> dict[str, Any]:
        """Weighted F1 on the test texts of each task that a model knows, and the answers."""
        engine = self.engine(name, data, row)
        record: dict[str, Any] = {"row": row, "data": data, "seed": SEED, "epochs": EPOCHS, "tokens": TOKENS}
        record |= {"tasks": {}, "training_seconds": read_json(self.work / name / "run.json")["seconds"]["training"]}
        texts: list[str] = []
        for task in TASKS if data == TOGETHER else (data,):
            frame = pd.read_parquet(self.work / "data" / task / "test.parquet")
            names = [label for label in engine.label_names if label.startswith(f"{task}: ")]
            found = of_task(engine, engine.predict_proba(frame["text"].tolist()), task)
            true = frame["label"].map(names.index).to_numpy()
            record["tasks"][task] = {
                "f1_weighted": classification_metrics(true, found, names)["f1_weighted"],
                "texts": len(true),
                "labels": true.tolist(),
                "predictions": found.argmax(axis=1).tolist(),
            }
            texts += frame["text"].tolist()
        record["gflops_per_text"] = gflops_per_text(engine, texts)
        record["parameters"] = sum(each.numel() for each in engine.model.parameters())
        return record | {"versions": versions(), "hardware": hardware()}

    def cost(self) -> dict[str, Any]:
        """How long each trunk takes for all four answers, beside the four models in turn, on texts of all tasks."""
        engines = {name: self.engine(name, data, row) for name, data, row in self.models()}
        frames = [pd.read_parquet(self.work / "data" / task / "test.parquet") for task in TASKS]
        texts = [text for frame in frames for text in frame["text"][: TIMED_TEXTS // len(TASKS)]]

        def four_models() -> None:
            for task in TASKS:
                engines[f"{task}-alone"].predict_proba(texts)

        tasks = {"four models": four_models} | {
            row: lambda engine=engines[f"{TOGETHER}-{row}"]: engine.predict_proba(texts) for row in ROWS
        }
        seconds = interleaved(tasks, ROUNDS)
        return {"texts": len(texts)} | {row: ratio(seconds["four models"], seconds[row]) for row in ROWS}


def of_task(engine: Engine, probabilities: np.ndarray, task: str) -> np.ndarray:
    """The probabilities `[B, C]` of all classes as those of a task, which sum to 1."""
    own = probabilities[:, [label.startswith(f"{task}: ") for label in engine.label_names]]
    return own / own.sum(axis=1, keepdims=True)


def one_trunk(results: Path) -> dict[str, Any]:
    """What docs/where-experts-pay.md shows: each task alone and on each trunk, with the difference to alone, and cost.

    Nothing before all of it is there.
    """
    stored = {path.stem: read_json(path) for path in (results / "one-trunk").glob("*.json")}
    if len(stored) < len(TASKS) + len(ROWS) + 1:
        return {}
    rows = []
    for task in TASKS:
        alone = stored[f"{task}-alone"]["tasks"][task]
        row: dict[str, Any] = {"task": task, "texts": alone["texts"], "alone": alone["f1_weighted"], "trunks": {}}
        for kind in ROWS:
            found = stored[f"{TOGETHER}-{kind}"]["tasks"][task]
            labels, ours, theirs = (np.asarray(each) for each in (
                alone["labels"], found["predictions"], alone["predictions"]
            ))  # fmt: skip
            row["trunks"][kind] = {
                "f1_weighted": found["f1_weighted"],
                "difference": paired_bootstrap(labels, ours, theirs, metric="f1_weighted"),
            }
        rows.append(row)
    labels, gated, dense = (
        np.concatenate([np.asarray(stored[f"{TOGETHER}-{row}"]["tasks"][task][key]) for task in TASKS])
        for row, key in (("dense", "labels"), ("gated", "predictions"), ("dense", "predictions"))
    )
    experts = paired_bootstrap(labels, gated, dense, metric="accuracy")
    return {
        "rows": rows,
        "experts": experts,
        "cost": stored["cost"],
        "epochs": EPOCHS,
        "hardware": stored["cost"]["hardware"],
    }
