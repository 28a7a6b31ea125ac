"""One training run from a config to a run folder that anyone can load, check and repeat."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data import SentimentDataset, Split
from ..errors import ConfigError
from ..evaluation import evaluate_predictions
from ..inference import Engine
from ..methods import save_adapted
from ..records import read_json, write_json
from .config import TrainConfig
from .fit import FitResult, fit
from .prepare import dataset_of, finished, prepare

FINISHED = "run.json"  # its presence says so
PLACES = ("data", "more_train")  # a hash stands for what they hold
PACKAGES = ("sentimoe", "torch", "transformers", "accelerate", "peft", "datasets", "scikit-learn", "numpy")


@dataclass(frozen=True)
class TrainedModel:
    """A model that was just trained, and all that its record needs. `config` is complete (no default left open)."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    dataset: SentimentDataset
    config: TrainConfig
    fitted: FitResult
    trainable_parameters: int
    train_used: int


def train_model(config: TrainConfig, folder: Path, *, resume: bool = False, progress: bool = True) -> TrainedModel:
    """Load the data, build the model, train it; `folder` gets `config.yaml`, `log.jsonl` and checkpoints.

    With `resume` a run that was killed there goes on after its last epoch. Raises DataError, ConfigError or
    ConversionError before anything is trained.
    """
    dataset = dataset_of(config)
    ready = prepare(config, dataset)
    _prepare_folder(folder, ready.config, dataset.sha256, resume)
    fitted = fit(ready, folder, resume, progress)
    used = len(ready.train) - fitted.unread
    trainable = sum(p.numel() for p in ready.model.parameters() if p.requires_grad)
    return TrainedModel(finished(ready), ready.tokenizer, dataset, ready.config, fitted, trainable, used)


def train(config: TrainConfig, output: str | Path, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train, evaluate on validation (and test where there is one) and write the run folder `output`.

    The folder is a Hugging Face model folder with its tokenizer plus `config.yaml` (the exact config), `run.json`
    (versions, data hash, hardware, parameters, history), `metrics.json` and `log.jsonl`. Returns what `run.json` holds
    and the metrics. Raises DataError, ConfigError or ConversionError before anything is trained.
    """
    folder, started = Path(output), time.perf_counter()
    done = train_model(config, folder, resume=resume, progress=progress)
    config, names = done.config, done.dataset.label_names
    save_adapted(done.model, done.tokenizer, folder)
    metrics = {
        name: evaluate_split(done.model, done.tokenizer, done.dataset.splits[name], names, config.precision)
        for name in ("validation", "test")
        if name in done.dataset.splits
    }
    record = {
        "config": config.to_dict(),
        "data": done.dataset.summary()
        | {"train_used": done.train_used, "train_truncated": done.fitted.truncated, "train_unread": done.fitted.unread},
        "parameters": sum(p.numel() for p in done.model.parameters()),
        "trainable_parameters": done.trainable_parameters,
        "seconds": {"training": round(done.fitted.seconds, 1), "all": round(time.perf_counter() - started, 1)},
        "versions": versions(),
        "hardware": hardware(),
        "history": done.fitted.history,
    }
    write_json(folder / "metrics.json", metrics)
    write_json(folder / FINISHED, record)
    shutil.rmtree(folder / "checkpoints")
    return record | {"metrics": metrics}


def evaluate_split(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    label_names: tuple[str, ...],
    precision: str = "auto",
    long_texts: str = "windows",
) -> dict[str, Any]:
    """Metrics with 95% bootstrap intervals on a split."""
    engine = Engine(model, tokenizer, precision=precision, long_texts=long_texts)
    metrics = evaluate_predictions(split.labels, engine.predict_proba(split.texts), label_names)
    return metrics | {"n_truncated": len(engine.truncated_rows)}


def versions() -> dict[str, str]:
    """Versions of everything that a result depends on."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def hardware() -> dict[str, Any]:
    """Processor, what it multiplies bfloat16 matrices with, cores and accelerator of this machine."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    flags = next((line.split() for line in _cpuinfo() if line.startswith("flags")), [])
    return {
        "processor": names[0] if names else platform.processor(),
        "bfloat16": [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _prepare_folder(folder: Path, config: TrainConfig, sha256: str, resume: bool) -> None:
    path, start = folder / "config.yaml", folder / "checkpoints" / "start.json"
    if resume and (folder / FINISHED).exists():
        raise ConfigError(f"{folder} holds a finished run; choose another output for a new one")
    if resume and path.exists():
        stored = yaml.safe_load(path.read_text(encoding="utf-8")) or {}  # empty: killed while it was written
        differing = [key for key, value in config.to_dict().items() if key not in PLACES and stored.get(key) != value]
        before = read_json(start) if start.exists() else {}
        now = _start(sha256)
        differing += [f"{key} ({value}, now {now[key]})" for key, value in before.items() if value != now[key]]
        if differing:
            raise ConfigError(
                f"{folder} was started with another {', '.join(differing)}; resume with the same, or remove the folder"
            )
    elif any(folder.glob("*")):
        raise ConfigError(f"{folder} is not empty; choose another output, or go on with --resume")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False), encoding="utf-8")
    start.parent.mkdir(exist_ok=True)
    write_json(start, _start(sha256))


def _start(sha256: str) -> dict[str, str]:
    """What must not change while a run is stopped, besides its config."""
    return {"data": sha256} | versions()
