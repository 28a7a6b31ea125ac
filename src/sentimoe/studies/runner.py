"""A declared study: a YAML file of runs, each of which leaves one JSON under `results/runs/` and is never run twice.

The file has three parts. `data`, `models` and `methods` hold the settings of each name (fields of `TrainConfig`, and
`tune`: factors of the default learning rate to choose from on validation, with seed 0). `runs` lists what to run:
`data`, `model`, `method` and `seed` may be lists and stand for all combinations; `recipe` names a variation, `settings`
and `method_settings` say what varies.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import ConfigError
from ..evaluation import active_parameters, classification_metrics, forward_flops, predicted_labels
from ..inference import Engine
from ..training import TrainConfig, TrainedModel, hardware, train_model, versions

KEYS = ("accuracy", "f1_weighted", "f1_macro", "n")
FLOP_TEXTS = 128


@dataclass(frozen=True)
class Run:
    """One run of a study: what is trained on what, with which seed; `recipe` names the variation."""

    data: str
    model: str
    method: str
    seed: int
    recipe: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    tune: tuple[float, ...] = ()
    long_texts: str = "windows"

    @property
    def name(self) -> str:
        """The name of its files."""
        return "__".join((self.data, self.model.replace("/", "-"), self.method, self.recipe, f"s{self.seed}"))

    def config(self, data_root: Path | None) -> TrainConfig:
        """What `sentimoe train` would be told."""
        local = None if data_root is None else data_root / self.data
        source = str(local) if local is not None and local.is_dir() else self.data
        fixed = {"model": self.model, "data": source, "method": self.method, "seed": self.seed}
        return TrainConfig.from_dict({**self.settings, **fixed})


def read_study(path: Path) -> list[Run]:
    """The runs of a study file, in order. Raises ConfigError for a name or key that does not fit."""
    if not path.is_file():
        raise ConfigError(f"study file {path} does not exist")
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    if unknown := sorted(set(study) - {"data", "models", "methods", "runs"}):
        raise ConfigError(f"{path} has unknown parts {unknown}; allowed are data, models, methods, runs")
    return [run for entry in study["runs"] for run in _expand(entry, study, path)]


ENTRY = {"data", "model", "method", "seed", "recipe", "settings", "method_settings", "tune"}


def _expand(entry: dict[str, Any], study: dict[str, Any], path: Path) -> Iterator[Run]:
    if unknown := sorted(set(entry) - ENTRY):
        raise ConfigError(f"{path}: a run has unknown keys {unknown}; allowed are {sorted(ENTRY)}")
    axes = [entry[key] if isinstance(entry[key], list) else [entry[key]] for key in ("data", "model", "method", "seed")]
    for data, model, method, seed in product(*axes):
        parts = []
        for kind, name in (("data", data), ("models", model), ("methods", method)):
            if name not in study[kind]:
                raise ConfigError(f"{path}: {name!r} is not listed under {kind}; add it there")
            parts.append(dict(study[kind][name] or {}))
        parts.append(dict(entry.get("settings", {})) | {"method_settings": entry.get("method_settings", {})})
        method_settings = {k: v for part in parts for k, v in part.pop("method_settings", {}).items()}
        merged = {key: value for part in parts for key, value in part.items()}
        tune = tuple(entry.get("tune", merged.pop("tune", ())))
        merged.pop("tune", None)
        long_texts = merged.pop("long_texts", "windows")
        merged["method_settings"] = method_settings
        yield Run(data, model, method, seed, entry.get("recipe", "default"), merged, tune, long_texts)


def run_study(
    study: list[Run],
    results: Path,
    *,
    wanted: Callable[[Run], bool] = lambda run: True,
    data_root: Path | None = None,
    budget: float | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Run what is wanted and has no result yet, in order; returns how many runs are still missing.

    budget: seconds; a run that would probably not end in time (by the longest one on the same data and model so far)
    is not started.
    """
    started, missing = time.monotonic(), 0
    defaults = {(run.data, run.model, run.method): run for run in study if run.recipe == "default"}
    for run in study:
        if not wanted(run):
            continue
        target = results / "runs" / f"{run.name}.json"
        if target.exists():
            continue
        left = None if budget is None else budget - (time.monotonic() - started)
        if left is not None and left < max(60.0, _longest(results, run)):
            missing += 1
            continue
        run = _tuned(run, defaults.get((run.data, run.model, run.method), run), results, data_root, say)
        say(f"{run.name} ...")
        record = perform(run, results, data_root)
        scores = [record[split]["f1_weighted"] for split in ("validation", "test")]
        say(f"{run.name}: validation {scores[0]:.4f}, test {scores[1]:.4f}, {record['seconds']:.0f} s")
    return missing


def perform(run: Run, results: Path, data_root: Path | None) -> dict[str, Any]:
    """Train, evaluate and store one run: its JSON, and beside it the predictions on the test texts (`.npz`)."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = train_model(run.config(data_root), Path(folder), progress=False)
    engine = Engine(done.model, done.tokenizer, precision=done.config.precision, long_texts=run.long_texts)
    test = done.dataset.splits["test"]
    probabilities = engine.predict_proba(test.texts)
    labels, names = np.asarray(test.labels), done.dataset.label_names
    scores = classification_metrics(labels, probabilities, names)
    record = {
        **_head(run, done),
        "validation": _validation_scores(run, done),
        "test": {key: scores[key] for key in (*KEYS, "ece")} | {"confusion_matrix": scores["confusion_matrix"]},
        "label_names": list(names),
        "cost": {
            "trainable_parameters": done.trainable_parameters,
            "parameters": sum(p.numel() for p in done.model.parameters()),
            "active_parameters": active_parameters(done.model),
            "gflops_per_text": _gflops_per_text(engine, test.texts[:FLOP_TEXTS]),
            "training_seconds": round(done.fitted.seconds, 1),
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    folder_path = results / "runs"
    folder_path.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder_path / f"{run.name}.npz",
        labels=labels.astype(np.int8),
        predictions=predicted_labels(probabilities).astype(np.int8),
    )
    _write(folder_path / f"{run.name}.json", record)
    return record


def _tuned(run: Run, default: Run, results: Path, data_root: Path | None, say: Callable[[str], None]) -> Run:
    """The run with the learning rate that the default recipe of its method found best on validation, with seed 0.

    Every trial leaves a JSON under `results/tuning/`; the test split is never looked at.
    """
    if not run.tune or "learning_rate" in run.settings:
        return run
    best: tuple[float, float] = (-1.0, 0.0)
    for factor in default.tune:
        trial = replace(default, seed=0, recipe=f"rate-x{factor:g}")
        path = results / "tuning" / f"{trial.name}.json"
        if not path.exists():
            _try(trial, factor, path, data_root, say)
        stored = json.loads(path.read_text(encoding="utf-8"))
        score = stored["validation"]["f1_weighted"]
        if score > best[0]:  # of equal ones the first factor stands
            best = (score, stored["hyperparameters"]["learning_rate"])
    return replace(run, settings=run.settings | {"learning_rate": best[1]})


def _try(trial: Run, factor: float, path: Path, data_root: Path | None, say: Callable[[str], None]) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        config = replace(trial.config(data_root), learning_rate_factor=factor)
        done = train_model(config, Path(folder), progress=False)
    scores = _validation_scores(trial, done)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, _head(trial, done) | {"validation": scores, "seconds": round(time.monotonic() - started, 1)})
    say(f"tuning {trial.name}: validation {scores['f1_weighted']:.4f}")


def _head(run: Run, done: TrainedModel) -> dict[str, Any]:
    hyperparameters = done.config.to_dict()
    for key in ("model", "data", "method", "seed", "text_column", "label_column"):
        hyperparameters.pop(key)
    return {
        "data": run.data,
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "recipe": run.recipe,
        "hyperparameters": hyperparameters | {"long_texts": run.long_texts},
        "data_sha256": done.dataset.sha256,
        "versions": versions(),
        "hardware": hardware(),
    }


def _validation_scores(run: Run, done: TrainedModel) -> dict[str, Any]:
    split = done.dataset.splits["validation"]
    engine = Engine(done.model, done.tokenizer, precision=done.config.precision, long_texts=run.long_texts)
    probabilities = engine.predict_proba(split.texts)
    scores = classification_metrics(np.asarray(split.labels), probabilities, done.dataset.label_names)
    return {key: scores[key] for key in KEYS}


def _gflops_per_text(engine: Engine, texts: list[str]) -> float:
    """Mean over texts fed one by one, so that no padding counts."""
    total = 0
    for text in texts:
        inputs = engine.tokenizer(text, truncation=True, max_length=engine.max_length, return_tensors="pt")
        total += forward_flops(engine.model, inputs.to(engine.model.device))
    return round(total / len(texts) / 1e9, 4)


def _longest(results: Path, run: Run) -> float:
    """Seconds of the longest stored run on the same data and model; 0 when there is none."""
    seconds = [0.0]
    for path in (results / "runs").glob(f"{run.data}__{run.model.replace('/', '-')}__*.json"):
        seconds.append(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    return max(seconds)


def _write(path: Path, value: Any) -> None:
    """Write whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
