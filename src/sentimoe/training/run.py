"""One training run from a config to a run folder that anyone can load, check and repeat."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..config import MoEConfig
from ..data import SentimentDataset, Split, load_dataset
from ..errors import ConfigError
from ..evaluation import evaluate_predictions
from ..inference import Engine
from ..methods import METHODS, adapt, check_trains, freeze_packed, merge, save_adapted
from ..upcycle import backbone_path, load_classifier
from .config import TrainConfig
from .fit import FitResult, default_learning_rate, fit

logger = logging.getLogger(__name__)
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

    Raises DataError, ConfigError or ConversionError before anything is trained.
    """
    dataset = load_dataset(config.data, text_column=config.text_column, label_column=config.label_column)
    model, tokenizer, config = prepare(config, dataset.label_names)
    _prepare_folder(folder, config, resume)
    train_split = training_texts(dataset.splits["train"], config)
    fitted = fit(model, tokenizer, train_split, dataset.splits["validation"], config, folder, resume, progress)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if config.merge and not config.load_in_4bit:  # adding to packed weights would round the updates away
        model = merge(model, config.method)
    return TrainedModel(model, tokenizer, dataset, config, fitted, trainable, len(train_split))


def train(config: TrainConfig, output: str | Path, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train, evaluate on validation (and test where there is one) and write the run folder `output`.

    The folder is a Hugging Face model folder with its tokenizer plus `config.yaml` (the exact config), `run.json`
    (versions, data hash, hardware, parameters, history), `metrics.json` and `log.jsonl`. Returns what `run.json` holds
    and the metrics. Raises DataError, ConfigError or ConversionError before anything is trained.
    """
    folder, started = Path(output), time.perf_counter()
    done = train_model(config, folder, resume=resume, progress=progress)
    config, names = done.config, done.dataset.label_names
    save_adapted(done.model, folder)
    done.tokenizer.save_pretrained(folder)
    metrics = {
        name: evaluate_split(done.model, done.tokenizer, done.dataset.splits[name], names, config.precision)
        for name in ("validation", "test")
        if name in done.dataset.splits
    }
    record = {
        "config": config.to_dict(),
        "data": done.dataset.summary() | {"train_used": done.train_used, "train_truncated": done.fitted.truncated},
        "parameters": sum(p.numel() for p in done.model.parameters()),
        "trainable_parameters": done.trainable_parameters,
        "seconds": {"training": round(done.fitted.seconds, 1), "all": round(time.perf_counter() - started, 1)},
        "versions": versions(),
        "hardware": hardware(),
        "history": done.fitted.history,
    }
    _write_json(folder / "run.json", record)
    _write_json(folder / "metrics.json", metrics)
    shutil.rmtree(folder / "checkpoints")
    return record | {"metrics": metrics}


def prepare(config: TrainConfig, label_names: Sequence[str]) -> tuple[Any, PreTrainedTokenizerBase, TrainConfig]:
    """Seed everything, build the model that the config asks for and its tokenizer; the config comes back complete."""
    check_trains(config.method)
    set_seed(config.seed)
    model = _load(config, label_names)
    tokenizer = load_tokenizer(config.model, model, config.max_length)
    default = default_learning_rate(model) * METHODS[config.method].rate_scale * config.learning_rate_factor
    rate = config.learning_rate or default
    model = adapt(model, config.method, config.method_settings)
    if config.load_in_4bit:
        freeze_packed(model)
    return model, tokenizer, replace(config, learning_rate=rate)


def _load(config: TrainConfig, label_names: Sequence[str]) -> PreTrainedModel:
    if not config.load_in_4bit:
        return load_classifier(config.model, label_names, head=config.head)
    if not METHODS[config.method].freezes:
        able = ", ".join(name for name, method in METHODS.items() if method.freezes)
        raise ConfigError(
            f"load_in_4bit needs a method that leaves weights frozen: {able}; {config.method!r} trains all"
        )
    keep = () if config.method == "lora" else MoEConfig(**config.method_settings).layers_to_transform or (-2, -1)
    return load_classifier(config.model, label_names, head=config.head, load_in_4bit=True, keep_layers=keep)


def load_tokenizer(name: str, model: PreTrainedModel, max_length: int) -> PreTrainedTokenizerBase:
    """The backbone's tokenizer, limited to `max_length` tokens; where there is no padding token the end token pads.

    Raises ConfigError when the model cannot read texts of that length.
    """
    limit = position_limit(model)
    if limit is not None and max_length > limit:
        raise ConfigError(f"max_length={max_length} is more than the {limit} tokens that {name} can read; lower it")
    tokenizer = AutoTokenizer.from_pretrained(backbone_path(name))
    tokenizer.model_max_length = max_length
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    text_config = model.config.get_text_config()
    if text_config.pad_token_id is None:
        text_config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def position_limit(model: PreTrainedModel) -> int | None:
    """Tokens that learned position embeddings cover, else what the config says; None where there is no limit."""
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.num_embeddings == stated:
            # RoBERTa and MPNet number positions from the padding index + 1
            return stated if module.padding_idx is None else stated - module.padding_idx - 1
    return stated


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
    """Processor, cores and accelerator of this machine."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def training_texts(split: Split, config: TrainConfig) -> Split:
    """The training texts that a run uses: all, or `train_limit` of them chosen by its seed."""
    return split if config.train_limit is None else split.sample(config.train_limit, config.seed)


def _prepare_folder(folder: Path, config: TrainConfig, resume: bool) -> None:
    path = folder / "config.yaml"
    if resume and path.exists():
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        differing = sorted(key for key, value in config.to_dict().items() if stored.get(key) != value)
        if differing:
            raise ConfigError(f"{folder} was started with other settings for {differing}; resume with the same ones")
    elif any(folder.glob("*")) and not resume:
        raise ConfigError(f"{folder} is not empty; choose another output, or go on with --resume")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False), encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    """Write whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
