"""Train a classifier on texts: tokenise, run the Trainer, keep the epoch that validation liked best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    TrainingArguments,
)

from sentimoe_settings import TrainConfig

from ..errors import ConfigError, DivergedError, PredictionError
from ..inference import compute_dtype
from . import processes
from .balance import WarnOfImbalance
from .callbacks import LogRows, SaveOften
from .checkpoints import Checkpoint, last_whole, set_aside_newer
from .distillation import TEACHER_PROBS
from .folder import CHECKPOINTS
from .head_init import start_head
from .prepare import Prepared
from .processes import is_first, of_first, together
from .progress import Progress
from .stopping import Stop
from .tokens import ROW, tokenise
from .trainer import SentimentTrainer


@dataclass(frozen=True)
class FitResult:
    """What training did: `history` holds the logged rows (loss, rate, validation metrics) in order.

    truncated: training texts longer than `max_length`. unread: those without a token, which were left out. seconds: of
    the Trainer, with those before the checkpoint that a resumed run started from.
    """

    history: list[dict[str, Any]]
    truncated: int
    unread: int
    seconds: float


def fit(
    ready: Prepared, folder: Path, resume: bool = False, progress: Progress | None = None, stop: Stop | None = None
) -> FitResult:
    """Train `ready.model` in place. Checkpoints go to `folder/checkpoints`, log rows to `folder/log.jsonl`.

    With `resume` training goes on from the last whole checkpoint in `folder`, from the start when there is none, and
    ends as if it had not been stopped. Of several processes all read each batch, a part each, and the folder of the
    first one counts. Raises DataError when no text has a token, PredictionError when a teacher's answer is not finite,
    DivergedError when loss, gradients, weights or validation answers are not, StoppedError when `stop` says so or
    another process is lost, and OSError when `folder` cannot be written.
    """
    with together(ready.config.ddp_timeout):
        return _fit(ready, of_first(folder), resume, progress, stop or Stop())


def _fit(ready: Prepared, folder: Path, resume: bool, progress: Progress | None, stop: Stop) -> FitResult:
    model, tokenizer, config = ready.model, ready.tokenizer, ready.config
    checkpoints = folder / CHECKPOINTS
    checkpoint = of_first(_last_checkpoint(checkpoints, resume) if is_first() else None)
    assert config.patience is not None and config.epochs is not None  # `prepare` filled them in
    patience = EarlyStoppingCallback(config.patience or config.epochs)
    train = tokenise(ready.train, tokenizer, config.max_length, "training")
    validation = tokenise(ready.validation, tokenizer, config.max_length, "validation")
    rows = train.rows if ready.teacher_probs is None else _with_teacher_probs(train.rows, ready.teacher_probs)
    arguments = training_arguments(config, checkpoints, model, len(rows))
    if config.gradient_checkpointing:
        _compute_again(model)
    if checkpoint:  # the Trainer forgets this
        patience.early_stopping_patience_counter = checkpoint.worse
        if checkpoint.worse >= patience.early_stopping_patience:
            arguments.num_train_epochs = round(checkpoint.epoch)
    elif config.head == "mean" and not config.teachers and config.head_init == "logistic-regression":
        start_head(model, tokenizer, rows, config.seed)
    has_cache = "use_cache" in vars(model.config)
    trainer = SentimentTrainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=validation.rows,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_selection_metrics,
        callbacks=[patience] if config.patience else [],
        resume=checkpoint,
        batch_size=config.batch_size,
        rates=config.rates,
        class_weights=inverse_frequency(rows["labels"], model.config.num_labels) if config.class_weights else None,
        distillation=ready.distillation,
    )
    for printer in (ProgressCallback, PrinterCallback):  # they write to standard output
        trainer.remove_callback(printer)
    if is_first():
        for follower in (LogRows(folder / "log.jsonl"), progress or Progress(), WarnOfImbalance()):
            trainer.add_callback(follower)
    trainer.add_callback(SaveOften(config.save_minutes, config.save_steps, stop))
    seconds = trainer.go()
    for name in ("forward", "_original_forward"):  # accelerate's autocast, in which the model would go on to answer
        vars(model).pop(name, None)
    if not has_cache:  # the Trainer gives it to every config, and it would be saved with a model that does not know it
        vars(model.config).pop("use_cache", None)
    model.eval()
    return FitResult(trainer.state.log_history, train.truncated, train.unread, seconds)


def _last_checkpoint(checkpoints: Path, resume: bool) -> Checkpoint | None:
    """The one to go on from; those that are newer and damaged are set aside."""
    checkpoint = last_whole(checkpoints) if resume else None
    set_aside_newer(checkpoints, than=checkpoint)
    return checkpoint


def _compute_again(model: Any) -> None:
    """Have activations computed again for the gradients instead of kept."""
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    # the second name is the first one's before transformers 5.23
    enable = getattr(plain, "activation_checkpointing_enable", None) or plain.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def inverse_frequency(labels: Sequence[int], num_labels: int) -> torch.Tensor:
    """Class weights `[C]` by inverse frequency, with mean 1 over the texts when all classes are there."""
    counts = np.bincount(labels, minlength=num_labels)
    return torch.tensor(len(labels) / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)


def training_arguments(
    config: TrainConfig, checkpoints: Path, model: PreTrainedModel, num_texts: int
) -> TrainingArguments:
    """The Trainer's arguments for a run. A run of fewer than 10 steps has no warm-up, whose first step is at rate 0."""
    assert config.epochs is not None and config.batch_size is not None
    steps = config.epochs * math.ceil(num_texts / config.batch_size)
    on_cpu = model.device.type == "cpu" and not torch.cuda.is_available()
    parts = processes.count() * config.gradient_accumulation_steps
    device = torch.device("cpu" if on_cpu else "cuda")
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=math.ceil(config.batch_size / parts),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup if steps >= 10 else 0,
        optim="adamw_torch_fused",
        bf16=compute_dtype(config.precision, device) == torch.bfloat16,
        use_cpu=on_cpu,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=config.patience != 0,
        metric_for_best_model=config.metric,
        logging_steps=10,
        seed=config.seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=False,  # each weight has a gradient in each step, if only zero
    )
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"  # not what `accelerate launch` was set to
    arguments._n_gpu = min(arguments.n_gpu, 1)  # of several, the Trainer would take all for one process
    if arguments.world_size != processes.count():
        raise ConfigError(
            f"{processes.count()} processes train, and the Trainer knows of {arguments.world_size}; start them with "
            "torchrun, which tells each its RANK, LOCAL_RANK and WORLD_SIZE"
        )
    return arguments


def _with_teacher_probs(rows: Dataset, teacher_probs: np.ndarray) -> Dataset:
    """The training set with the teachers' predictions. teacher_probs: `[B, C]`, of the texts left out too."""
    probs = teacher_probs[np.asarray(rows[ROW]) - 1]
    if len(lost := np.flatnonzero(~np.isfinite(probs).all(axis=1))):
        raise PredictionError(
            f"a teacher gave no finite answer to {len(lost)} of {len(probs)} training texts, the first one is "
            f"number {rows[int(lost[0])][ROW]}; take these texts out, or give a teacher that can read them"
        )
    return rows.add_column(TEACHER_PROBS, probs.tolist())


def _selection_metrics(prediction) -> dict[str, float]:
    logits = prediction.predictions
    if not np.isfinite(logits).all():
        raise DivergedError("training diverged: answers to validation texts are not finite; try a lower learning_rate")
    predicted, labels = np.argmax(logits, axis=-1), prediction.label_ids
    return {
        "accuracy": accuracy_score(labels, predicted),
        "f1_weighted": f1_score(labels, predicted, average="weighted", zero_division=0),
        "f1_macro": f1_score(labels, predicted, average="macro", zero_division=0),
    }
