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
from sentimoe.errors import ConfigError
from sentimoe.evaluation import classification_metrics, interleaved, paired_bootstrap, predicted_labels, ratio
from sentimoe.inference import Engine
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json, written_aside
from sentimoe.training import Stop, TrainConfig, train

from .ready_data import SPLITS

TASKS = ("fdu-mtl", "tweets", "tweeteval-emotion", "sst5")
OVERLAPS = ("mr",)  # a domain of fdu-mtl whose sentences are those of SST-5
TOGETHER = "four-tasks"
LIMITS = {"train": 4_000, "validation": 500}  # texts of each task; all test texts are read
MOST_LOST, LEAST_RATIO = 0.01, 2.0  # of weighted F1, and how many times as fast as four models: the rule
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
    """Write each task and all together as data sets, and the test texts apart, as training need not read them.

    Raises ConfigError where texts were written under other limits.
    """
    if (noted := folder / "limits.json").exists() and read_json(noted) != LIMITS:
        raise ConfigError(f"{folder} was written with the limits {read_json(noted)}, not {LIMITS}; remove it")
    for split in SPLITS:
        parts = {task: split_of(task, split, data_root) for task in TASKS}
        for name, frame in (parts | {TOGETHER: pd.concat(list(parts.values()))}).items():
            path = folder / "test" / f"{name}.parquet" if split == "test" else folder / name / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                with written_aside(path) as partial:
                    frame.to_parquet(partial, index=False)
    write_json(noted, LIMITS)


class Study:
    """work: keeps data and models. stop: looked at between the steps of a training."""

    def __init__(
        self, data_root: Path, work: Path, results: Path, progress: Callable[[str], None], stop: Stop | None = None
    ):
        self.work, self.results, self.progress, self.stop = work, results / "one-trunk", progress, stop
        write_tasks(data_root, work / "data")

    def run(self) -> None:
        """Train, answer and measure what has no result yet. Raises ConfigError for a record of other settings."""
        self.results.mkdir(parents=True, exist_ok=True)
        for name, data, row in self.models():
            path = self.results / f"{name}.json"
            if path.exists() and read_json(path)["settings"] != settings():
                raise ConfigError(f"{path} has the settings {read_json(path)['settings']}, not {settings()}; remove it")
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
            if (self.results / f"{name}.json").exists():
                raise ConfigError(f"{folder} is gone, and {name} is measured; remove the records, or give their --work")
            self.progress(f"{name}: training")
            config = TrainConfig(
                model=BACKBONE, data=str(self.work / "data" / data), epochs=EPOCHS, max_length=TOKENS, seed=SEED,
                patience=0, save_minutes=2, **ROWS[row],
            )  # fmt: skip
            train(config, folder, resume=True, stop=self.stop)
        engine = SentimentClassifier.from_pretrained(folder, long_texts="truncate").engine
        assert isinstance(engine, Engine)
        return engine

    def test(self, task: str) -> pd.DataFrame:
        """Its test texts."""
        return pd.read_parquet(self.work / "data" / "test" / f"{task}.parquet")

    def measured(self, name: str, data: str, row: str) -> dict[str, Any]:
        """Weighted F1 on the test texts of each task that a model knows, and the answers."""
        engine = self.engine(name, data, row)
        record: dict[str, Any] = {"row": row, "data": data, "seed": SEED, "settings": settings()}
        record |= {"tasks": {}, "training_seconds": read_json(self.work / name / "run.json")["seconds"]["training"]}
        texts: list[str] = []
        for task in TASKS if data == TOGETHER else (data,):
            frame = self.test(task)
            names = [label for label in engine.label_names if label.startswith(f"{task}: ")]
            found = of_task(engine, engine.predict_proba(frame["text"].tolist()), task)
            true = frame["label"].map(names.index).to_numpy()
            record["tasks"][task] = {
                "f1_weighted": classification_metrics(true, found, names)["f1_weighted"],
                "texts": len(true),
                "labels": true.tolist(),
                "predictions": predicted_labels(found).tolist(),
            }
            texts += frame["text"].tolist()
        record["gflops_per_text"] = gflops_per_text(engine, texts)
        record["parameters"] = sum(each.numel() for each in engine.model.parameters())
        return record | {"versions": versions(), "hardware": hardware()}

    def cost(self) -> dict[str, Any]:
        """How long each trunk takes for all four answers, beside the four models in turn, on texts of all tasks."""
        engines = {name: self.engine(name, data, row) for name, data, row in self.models()}
        texts = [text for task in TASKS for text in self.test(task)["text"][: TIMED_TEXTS // len(TASKS)]]

        def four_models() -> None:
            for task in TASKS:
                engines[f"{task}-alone"].predict_proba(texts)

        tasks = {"four models": four_models} | {
            row: lambda engine=engines[f"{TOGETHER}-{row}"]: engine.predict_proba(texts) for row in ROWS
        }
        seconds = interleaved(tasks, ROUNDS)
        return {"texts": len(texts)} | {row: ratio(seconds["four models"], seconds[row]) for row in ROWS}


def settings() -> dict[str, Any]:
    """What all models have in common."""
    return {"model": BACKBONE, "epochs": EPOCHS, "tokens": TOKENS, "limits": LIMITS}


def of_task(engine: Engine, probabilities: np.ndarray, task: str) -> np.ndarray:
    """The probabilities `[B, C]` of all classes as those of a task, which sum to 1."""
    own = probabilities[:, [label.startswith(f"{task}: ") for label in engine.label_names]]
    return own / own.sum(axis=1, keepdims=True)


def one_trunk(results: Path) -> dict[str, Any]:
    """What docs/where-experts-pay.md shows: each task alone and on each trunk, with the difference to alone, and cost.

    Nothing before the single models and the dense trunk are there. Raises ConfigError for records of unlike texts.
    """
    stored = {path.stem: read_json(path) for path in (results / "one-trunk").glob("*.json")}
    trunks = {row: stored[f"{TOGETHER}-{row}"] for row in ROWS if f"{TOGETHER}-{row}" in stored}
    if "dense" not in trunks or not {f"{task}-alone" for task in TASKS} <= stored.keys():
        return {}
    rows = []
    for task in TASKS:
        alone = stored[f"{task}-alone"]["tasks"][task]
        row: dict[str, Any] = {"task": task, "texts": alone["texts"], "alone": alone["f1_weighted"], "trunks": {}}
        for kind, trunk in trunks.items():
            found = trunk["tasks"][task]
            if found["labels"] != alone["labels"] or trunk["settings"] != stored[f"{task}-alone"]["settings"]:
                raise ConfigError(f"{results}: {task}-alone and {TOGETHER}-{kind} read unlike texts; run one again")
            labels, ours, theirs = map(np.asarray, (alone["labels"], found["predictions"], alone["predictions"]))
            row["trunks"][kind] = {
                "f1_weighted": found["f1_weighted"],
                "difference": paired_bootstrap(labels, ours, theirs, metric="f1_weighted"),
            }
        rows.append(row)
    found = {"rows": rows, "cost": stored.get("cost"), "settings": trunks["dense"]["settings"]}
    found |= {
        "trunks": {
            kind: {"gflops": each["gflops_per_text"], "seconds": each["training_seconds"]}
            for kind, each in trunks.items()
        }
    }
    found |= {"hardware": trunks["dense"]["hardware"], "experts": _experts(trunks)}
    return found | verdict(found)


def _experts(trunks: dict[str, Any]) -> dict[str, Any] | None:
    """Accuracy on all test texts, experts minus dense; None before both are there."""
    if "gated" not in trunks:
        return None
    labels, gated, dense = (
        np.concatenate([np.asarray(trunks[row]["tasks"][task][key]) for task in TASKS])
        for row, key in (("dense", "labels"), ("gated", "predictions"), ("dense", "predictions"))
    )
    return paired_bootstrap(labels, gated, dense, metric="accuracy")


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """By the rule: which trunks hold F1 on every task, which of these are fast enough, and what follows."""
    holding = {
        kind: all(row["trunks"][kind]["difference"]["difference"] >= -MOST_LOST for row in found["rows"])
        for kind in found["rows"][0]["trunks"]
    }
    cost, experts = found["cost"], found["experts"]
    fit = [kind for kind, holds in holding.items() if cost and holds and cost[kind]["ratio"] > LEAST_RATIO]
    if experts is None or not cost:
        says = f"not decided yet: {'the trunk with experts' if experts is None else 'the cost'} is missing"
    elif "gated" in fit and experts["interval"][0] > 0:
        says = "experts lead on this seed, so seeds 1 and 2 of both trunks decide whether it is built with them"
    elif "dense" in fit:
        says = "by the rule, the feature is built, on the dense trunk: it holds F1 on every task and is fast enough"
    elif fit:
        says = "by the rule, the feature is not built: only the trunk with experts is fit, and it is no more accurate"
    elif any(holding.values()):
        says = "by the rule, the feature is not built: no trunk both holds F1 on every task and is fast enough"
    else:
        says = "by the rule, the feature is not built: no trunk stays within a point of the model of each task"
    return {"holding": holding, "fit": fit, "says": says}
