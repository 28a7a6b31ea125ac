"""One training run from a config to a run folder that anyone can load, check and repeat."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sentimoe_settings import TrainConfig

from ..data import SeenTexts, SentimentDataset, Split
from ..errors import DivergedError
from ..evaluation import evaluate_predictions, most_frequent, ordinal_metrics, predicted_labels
from ..inference import Engine
from ..machine import hardware, versions
from ..methods import save_adapted
from ..model_card import made_from, model_facts, write_card
from ..records import write_json, writes
from ..upcycle import is_ordinal, layer_numbers
from .balance import unbalanced
from .baseline import tfidf_baseline
from .calibrate import calibrate
from .checkpoints import newest_first
from .fit import FitResult, fit
from .folder import CHECKPOINTS, FINISHED, begin, locked
from .prepare import dataset_of, finished, prepare
from .processes import as_one, count, is_first, of_first, together
from .progress import Progress, shown
from .stopping import Stop

logger = logging.getLogger(__name__)


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
    seen: SeenTexts


def train_model(
    config: TrainConfig, folder: Path, *, resume: bool = False, progress: bool = True, stop: Stop | None = None
) -> TrainedModel:
    """Load the data, build the model, train it; `folder` gets `config.yaml`, `log.jsonl` and checkpoints.

    With `resume` a run that was stopped there, in any way, goes on from its last checkpoint and ends as if it had not
    been. stop: ends it early. Of several processes that train together, the first one writes, and all get the model.
    Raises DataError, ConfigError or ConversionError before anything is trained, DivergedError when training diverges,
    and StoppedError when it is stopped, another process is lost or the folder cannot be written.
    """
    with ExitStack() as held, together(config.ddp_timeout):
        return _train_model(config, folder, resume, _hold(held, folder, resume, progress), stop)


def _hold(held: ExitStack, folder: Path, resume: bool, progress: bool) -> Progress:
    """Have the first process hold the folder, and show the progress, for as long as `held`."""
    with as_one():
        if is_first():
            held.enter_context(locked(folder, resume))
    return held.enter_context(shown(progress and is_first()))


def _train_model(
    config: TrainConfig, folder: Path, resume: bool, progress: Progress, stop: Stop | None
) -> TrainedModel:
    kept = of_first(folder) / CHECKPOINTS if resume else None
    with as_one():
        progress.now("data and model are read")
        dataset = dataset_of(config)
        for warning in dataset.warnings:
            logger.warning(warning)
        ready = prepare(config, dataset, kept)
    with as_one():
        if is_first():
            with writes(folder):
                begin(folder, ready.config, dataset.sha256, {"processes": str(count()), **versions()})
                if ready.answers is not None:
                    ready.answers.save(folder / CHECKPOINTS)
    with writes(folder):
        try:
            fitted = fit(ready, folder, resume, progress, stop)
        except DivergedError as error:
            for good in newest_first(folder / CHECKPOINTS)[:1]:
                error.args = (f"{error}; what was trained before is kept in {good}",)
            raise
    used = len(ready.train) - fitted.unread
    trainable = sum(p.numel() for p in ready.model.parameters() if p.requires_grad)
    return TrainedModel(finished(ready), ready.tokenizer, dataset, ready.config, fitted, trainable, used, ready.seen)


def train(
    config: TrainConfig,
    output: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Train, evaluate on validation (and test where there is one) and write the run folder `output`.

    The folder is a Hugging Face model folder with its tokenizer plus `config.yaml` (the exact config), `run.json`
    (versions, data hash, hardware, parameters, history, the temperature, the scores of TF-IDF, and experts that read
    nearly all or next to none of the tokens), `metrics.json`, `log.jsonl` and a model card. Returns what
    `run.json` holds and the metrics; of several processes that train together, the others are done once the model is
    trained, and return nothing. Raises what `train_model` raises.
    """
    folder, started = Path(output), time.perf_counter()
    with ExitStack() as held:
        with together(config.ddp_timeout):
            seen, first, number = _hold(held, folder, resume, progress), is_first(), count()
            done = _train_model(config, folder, resume, seen, stop)
        if not first:
            return {}
        calibrated = calibrate(done.model, done.tokenizer, done.dataset, config) if config.calibrate else None
        with writes(folder):
            save_adapted(done.model, done.tokenizer, folder, done.seen)
        seen.now("the saved model is measured")
        measured = {
            name: evaluate_split(done.model, done.tokenizer, split, done.dataset.label_names, config.precision)
            for name, split in done.dataset.splits.items()
            if name != "train"
        }
        metrics = {name: found for name, (found, _) in measured.items()}
        baseline = tfidf_baseline(config, done.dataset, {name: answers for name, (_, answers) in measured.items()})
        record = _record(done, number, time.perf_counter() - started)
        record |= {"calibration": calibrated, "tfidf": baseline}
        with writes(folder):
            write_json(folder / "metrics.json", metrics)
            write_card(folder, _card(done, record, metrics))
            write_json(folder / FINISHED, record)
        _remove_checkpoints(folder)
    return record | {"metrics": metrics}


def _card(done: TrainedModel, record: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """What the model card of a run says."""
    return {
        "model": model_facts(done.model, done.tokenizer.model_max_length),
        "data": record["data"],
        "scores": metrics,
        "calibration": record["calibration"],
        "tfidf": record["tfidf"],
        "versions": {name: record["versions"][name] for name in ("sentimoe", "torch", "transformers")},
    } | made_from(done.config.model, done.config.method)


def _remove_checkpoints(folder: Path) -> None:
    try:
        shutil.rmtree(folder / CHECKPOINTS)
    except OSError as error:
        logger.warning("the run is finished, but %s is left (%s); remove it", folder / CHECKPOINTS, error)


def _record(done: TrainedModel, processes: int, seconds: float) -> dict[str, Any]:
    """What `run.json` says. processes: how many trained. seconds: from the start of the process's work."""
    used = {
        "train_used": done.train_used,
        "train_truncated": done.fitted.truncated,
        "train_unread": done.fitted.unread,
    }
    return {
        "config": done.config.to_dict(),
        "data": done.dataset.summary() | used,
        "parameters": sum(p.numel() for p in done.model.parameters()),
        "trainable_parameters": done.trainable_parameters,
        "seconds": {"training": round(done.fitted.seconds, 1), "all": round(seconds, 1)},
        "versions": versions(),
        "hardware": hardware(),
        "processes": processes,
        "unbalanced_experts": unbalanced(done.fitted.history, layer_numbers(done.model)),
        "history": done.fitted.history,
    }


def evaluate_split(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    label_names: tuple[str, ...],
    precision: str,
) -> tuple[dict[str, Any], np.ndarray]:
    """Metrics with 95% bootstrap intervals on a split, and the label of each text `[B]`, -1 for none."""
    engine = Engine(model, tokenizer, precision=precision)
    predictions = engine.predict(split.texts)
    metrics = evaluate_predictions(split.labels, predictions.probabilities, label_names)
    metrics["most_frequent"] = most_frequent(split.labels, label_names)
    answers = predicted_labels(predictions.probabilities)
    if is_ordinal(model.config):
        metrics["ordinal"] = ordinal_metrics(split.labels, answers, len(label_names))
    return metrics | {"n_truncated": len(predictions.truncated)}, answers
