"""One run of a study, from its declaration to its record: train or ask, predict the test texts, count the cost."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sentimoe.bench.flops import FLOP_TEXTS, gflops_per_text
from sentimoe.data import SentimentDataset, Split
from sentimoe.evaluation import active_parameters, classification_metrics, predicted_labels
from sentimoe.inference import Engine, compute_dtype
from sentimoe.machine import hardware, versions
from sentimoe.methods import METHODS, PROMPTS, Prompt, load_zero_shot, save_adapted
from sentimoe.records import write_json, writes, written_aside
from sentimoe.training import (
    WITHOUT_EFFECT,
    Stop,
    TrainConfig,
    TrainedModel,
    dataset_of,
    train_model,
)
from sentimoe_settings import check_settings

KEYS = ("accuracy", "f1_weighted", "f1_macro", "n")


@dataclass(frozen=True)
class Run:
    """One run of a study: what is trained on what, with which seed; `recipe` names the variation.

    settings: fields of `TrainConfig`; `more_train` is a file in the folder of the data set. tune: factors of the
    method's default learning rate to choose from. own_tune: they are tried with this recipe (else the choice of the
    default recipe holds).
    long_texts: what prediction does with them. limit: use that many texts of each evaluated split (None: all).
    teacher: the method of the runs that teach this one, teacher_seeds: their seeds (none: this one's), teacher_folders:
    where their models lie.
    """

    data: str
    model: str
    method: str
    seed: int
    recipe: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    tune: tuple[float, ...] = ()
    own_tune: bool = False
    long_texts: str = "windows"
    limit: int | None = None
    teacher: str = ""
    teacher_seeds: tuple[int, ...] = ()
    teacher_folders: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its files."""
        return "__".join((self.data, self.model.replace("/", "-"), self.method, self.recipe, f"s{self.seed}"))

    def config(self, data_root: Path | None) -> TrainConfig:
        """What `sentimoe train` would be told."""
        local = None if data_root is None else data_root / self.data
        at_hand = local is not None and local.is_dir()
        source = str(local) if at_hand else self.data
        fixed = {"model": self.model, "data": source, "method": self.method, "seed": self.seed}
        fixed["teacher"] = list(self.teacher_folders) or None
        if at_hand and self.settings.get("more_train"):
            fixed["more_train"] = str(local / self.settings["more_train"])
        return TrainConfig.from_dict({**self.settings, **fixed})


@dataclass(frozen=True)
class Outcome:
    """What a method left: an engine that answers, and what its record says. `engine` is an `Engine` or a `ZeroShot`."""

    engine: Any
    dataset: SentimentDataset
    hyperparameters: dict[str, Any]
    trainable_parameters: int = 0
    training_seconds: float | None = None


def trained(run: Run, config: TrainConfig, folder: Path, keep: Path | None = None, stop: Stop | None = None) -> Outcome:
    """Train the model that the run declares, in `folder`, where one that was killed goes on from its last checkpoint.

    keep: a folder to save the model to. stop: ends it early. Raises ConfigError when training began in `folder` with
    other settings.
    """
    done = train_model(config, folder, resume=True, progress=False, stop=stop)
    if keep is not None:
        with writes(keep):
            _keep(done, keep)
    engine = Engine(done.model, done.tokenizer, precision=done.config.precision, long_texts=run.long_texts)
    return Outcome(
        engine, done.dataset, told(run, done.config), done.trainable_parameters, round(done.fitted.seconds, 1)
    )


def _keep(done: TrainedModel, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_adapted(done.model, done.tokenizer, partial, done.seen)
    (partial / "config.yaml").write_text(yaml.safe_dump(done.config.to_dict(), sort_keys=False), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def told(run: Run, config: TrainConfig) -> dict[str, Any]:
    """What a result says of the settings of its run: names of teachers and files in place of where they lie."""
    named = ("model", "data", "method", "seed", "calibrate", *WITHOUT_EFFECT)  # `train_model` does not calibrate
    found = {key: value for key, value in config.to_dict().items() if key not in named}
    found |= {"long_texts": run.long_texts, "teacher": run.teacher or None}
    found["more_train"] = run.settings.get("more_train")
    found["rate_is"] = "tuned" if run.tune else "declared" if "learning_rate" in run.settings else "default"
    if run.teacher_seeds:
        found["teacher_seeds"] = list(run.teacher_seeds)
    return found


def asked(run: Run, config: TrainConfig) -> Outcome:
    """Put the language model's question; nothing is trained."""
    dataset = dataset_of(config)
    settings = check_settings(run.method, config.method_settings)
    engine = load_zero_shot(
        run.model,
        dataset.label_names,
        dtype=compute_dtype(config.precision, torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        prompt=PROMPTS.get(run.data, Prompt()),
        max_length=config.max_length,
        **settings,
    )
    answer = {"method_settings": {"mode": engine.mode}, "max_length": config.max_length, "precision": config.precision}
    prompt = {"before": engine.tokenizer.decode(engine.before), "after": engine.tokenizer.decode(engine.after)}
    return Outcome(engine, dataset, answer | {"prompt": prompt})


def outcome_of(
    run: Run, config: TrainConfig, folder: Path, keep: Path | None = None, stop: Stop | None = None
) -> Outcome:
    """Train, or ask where the method trains nothing."""
    return asked(run, config) if METHODS[run.method].adapt is None else trained(run, config, folder, keep, stop)


def perform(
    run: Run,
    results: Path,
    data_root: Path | None,
    folder: Path,
    keep: Path | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Train or ask, evaluate and store one run: its JSON, and beside it the predictions on the test texts (`.npz`).

    folder: where it trains. keep: a folder to save the trained model to. stop: ends training early.
    """
    started = time.monotonic()
    outcome = outcome_of(run, run.config(data_root), folder, keep, stop)
    engine, dataset = outcome.engine, outcome.dataset
    if not run.settings.get("more_train"):
        describe_data(run.data, dataset, results)
    test = _texts(run, dataset, "test")
    predictions = engine.predict(test.texts)
    probabilities = predictions.probabilities
    labels = np.asarray(test.labels)
    counted = test.texts if isinstance(engine, Engine) else test.sample(FLOP_TEXTS).texts
    scores = classification_metrics(labels, probabilities, dataset.label_names)
    record = {
        **head(run, outcome),
        "validation": validation_scores(run, outcome),
        "test": {key: scores[key] for key in (*KEYS, "ece", "confusion_matrix")},
        "label_names": list(dataset.label_names),
        "cost": {
            "trainable_parameters": outcome.trainable_parameters,
            "parameters": sum(p.numel() for p in engine.model.parameters()),
            "active_parameters": active_parameters(engine.model),
            "gflops_per_text": round(gflops_per_text(engine, counted), 4),
            "training_seconds": outcome.training_seconds,
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    if predictions.off_label:
        record["off_label"] = dict(predictions.off_label.most_common(20))
    with writes(results):
        write_run(results / "runs" / run.name, record, labels, predicted_labels(probabilities))
    return record


def write_run(stem: Path, record: dict[str, Any], labels: np.ndarray, predictions: np.ndarray) -> None:
    """The predictions first: a run exists when its JSON does."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(Path(f"{stem}.npz")) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, labels=labels.astype(np.int8), predictions=predictions.astype(np.int8))
    write_json(Path(f"{stem}.json"), record)


def head(run: Run, outcome: Outcome) -> dict[str, Any]:
    """What names a run and what it depended on."""
    limit = {} if run.limit is None else {"limit": run.limit}
    return {
        "data": run.data,
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "recipe": run.recipe,
        "hyperparameters": outcome.hyperparameters | limit,
        "data_sha256": outcome.dataset.sha256,
        "versions": versions(),
        "hardware": hardware(),
    }


def validation_scores(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Accuracy and F1 on validation."""
    split = _texts(run, outcome.dataset, "validation")
    probabilities = outcome.engine.predict_proba(split.texts)
    scores = classification_metrics(np.asarray(split.labels), probabilities, outcome.dataset.label_names)
    return {key: scores[key] for key in KEYS}


def describe_data(name: str, dataset: SentimentDataset, results: Path) -> None:
    """Table 1: rows and classes of a data set, written once."""
    path = results / "data" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        words = {
            split: float(np.median([len(text.split()) for text in part.texts]))
            for split, part in dataset.splits.items()
        }
        write_json(path, dataset.summary() | {"name": name, "median_words": words})


def _texts(run: Run, dataset: SentimentDataset, split: str) -> Split:
    """All texts of a split, or `limit` of them, the same ones for every run."""
    return dataset.splits[split] if run.limit is None else dataset.splits[split].sample(run.limit)
