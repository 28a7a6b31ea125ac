"""Train a classifier on texts: tokenise, run the Trainer, keep the epoch that validation liked best."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainingArguments,
)

from ..data import Split, clean_text
from ..inference import compute_dtype
from .callbacks import LogRows, MarkComplete, ProgressBar, last_complete_checkpoint
from .config import TrainConfig
from .distillation import ANSWERS
from .prepare import Prepared
from .trainer import SentimentTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """What training did: `history` holds the logged rows (loss, rate, validation metrics) in order.

    truncated: training texts longer than `max_length`. seconds: of the Trainer, with those before the checkpoint that a
    resumed run started from. best: the best validation metric.
    """

    history: list[dict[str, Any]]
    truncated: int
    seconds: float
    best: float | None


def fit(ready: Prepared, folder: Path, resume: bool = False, progress: bool = True) -> FitResult:
    """Train `ready.model` in place. Checkpoints go to `folder/checkpoints`, log rows to `folder/log.jsonl`.

    With `resume` training goes on from the last complete checkpoint in `folder`, from the start when there is none, and
    ends as if it had not been stopped.
    """
    model, tokenizer, config = ready.model, ready.tokenizer, ready.config
    checkpoints = folder / "checkpoints"
    checkpoint = last_complete_checkpoint(checkpoints) if resume else None
    earlier = checkpoint.seconds if checkpoint else 0.0
    patience = EarlyStoppingCallback(config.patience)
    arguments = training_arguments(config, checkpoints, model, len(ready.train))
    if checkpoint:  # the Trainer forgets this
        patience.early_stopping_patience_counter = checkpoint.worse
        if checkpoint.worse >= config.patience:
            arguments.num_train_epochs = checkpoint.epochs
    train_set, truncated = _tokenise(ready.train, tokenizer, config.max_length)
    if ready.answers is not None:
        train_set = train_set.add_column(ANSWERS, ready.answers.tolist())
    validation_set, _ = _tokenise(ready.validation, tokenizer, config.max_length)
    if truncated:
        logger.warning("%d of %d training texts are cut at %d tokens", truncated, len(ready.train), config.max_length)
    trainer = SentimentTrainer(
        model,
        arguments,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_selection_metrics,
        callbacks=[patience, MarkComplete(earlier), LogRows(folder / "log.jsonl")],
        rates=config.rates,
        class_weights=inverse_frequency(ready.train, model.config.num_labels) if config.class_weights else None,
        distillation=ready.distillation,
    )
    for printer in (ProgressCallback, PrinterCallback):  # they write to standard output
        trainer.remove_callback(printer)
    if progress:
        trainer.add_callback(ProgressBar(config.metric))
    output = trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    model.eval()
    seconds = earlier + output.metrics["train_runtime"]
    return FitResult(trainer.state.log_history, truncated, seconds, trainer.state.best_metric)


def inverse_frequency(split: Split, num_labels: int) -> torch.Tensor:
    """Class weights `[C]` by inverse frequency, with mean 1 over the texts when all classes are there."""
    counts = np.bincount(split.labels, minlength=num_labels)
    return torch.tensor(len(split) / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)


def training_arguments(
    config: TrainConfig, checkpoints: Path, model: PreTrainedModel, num_texts: int
) -> TrainingArguments:
    """The Trainer's arguments for a run. A run of fewer than 10 steps has no warm-up, whose first step is at rate 0."""
    steps = config.epochs * math.ceil(num_texts / config.batch_size)
    on_cpu = model.device.type == "cpu" and not torch.cuda.is_available()
    device = torch.device("cpu" if on_cpu else "cuda")
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=4 * config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup if steps >= 10 else 0,
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length",
        bf16=compute_dtype(config.precision, device) == torch.bfloat16,
        use_cpu=on_cpu,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=config.metric,
        logging_steps=10,
        seed=config.seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
    )


def _tokenise(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[Dataset, int]:
    texts = [clean_text(text) for text in split.texts]
    cut = tokenizer(texts, truncation=True, max_length=max_length)
    at_limit = [text for text, ids in zip(texts, cut["input_ids"], strict=True) if len(ids) >= max_length]
    longer = tokenizer(at_limit, truncation=True, max_length=max_length + 1)["input_ids"] if at_limit else []
    return Dataset.from_dict({**cut, "labels": split.labels}), sum(len(ids) > max_length for ids in longer)


def _selection_metrics(prediction) -> dict[str, float]:
    logits = prediction.predictions
    predicted, labels = np.argmax(logits, axis=-1), prediction.label_ids
    classes = list(range(logits.shape[-1]))
    return {
        "accuracy": accuracy_score(labels, predicted),
        "f1_weighted": f1_score(labels, predicted, labels=classes, average="weighted", zero_division=0),
        "f1_macro": f1_score(labels, predicted, labels=classes, average="macro", zero_division=0),
    }
