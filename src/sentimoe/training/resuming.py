"""A Trainer whose runs, stopped anywhere and resumed, end as if they had not been stopped.

The Trainer of transformers restores weights, optimizer, schedule and generators. It forgets the order of the texts in
the epoch that was broken off, the losses since the last logged row, how long training took, and where the best
checkpoint lies when the folder was moved. Of a prompt encoder peft writes what it says, not its weights, and reads that
back as if it were them; so what is trained beside a frozen model is written and read here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from . import processes
from .batches import by_length, loader
from .checkpoints import Checkpoint, place_of, written_checkpoint
from .objective import NOT_READ

PROGRESS, TRAINED = "progress.pt", "trained.safetensors"


class EpochOrder(Sampler[int]):
    """The order in which an epoch reads the texts, and the generator state from which it was drawn.

    again: a state from which the next order is drawn, that of an epoch that was broken off.
    """

    def __init__(self, sampler: Sampler[int]):
        self.sampler = sampler
        self.drawn_from: torch.Tensor | None = None
        self.again: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        if self.again is not None:
            torch.set_rng_state(self.again)
            self.again = None
        self.drawn_from = torch.get_rng_state()
        return iter(processes.of_first(list(self.sampler)))


class ResumableTrainer(Trainer):
    """See above. resume: the checkpoint from which `train` goes on; None: from the start.

    batch_size: texts of a step, all processes together; None: what the arguments say.
    """

    def __init__(self, *args: Any, resume: Checkpoint | None = None, batch_size: int | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.resume = resume
        self.batch_size = batch_size or self.get_total_train_batch_size(self.args)
        self.columns = _columns(self.model)
        self.add_callback(_Restore(self))

    def go(self) -> float:
        """Train, from the checkpoint where there is one; returns the seconds of training, those before it included."""
        folder = None if self.resume is None else str(self.resume.folder)
        return self.train(resume_from_checkpoint=folder).metrics["train_runtime"]

    def get_train_dataloader(self):
        """The parts of every batch that this process reads, in an order that all have from the first."""
        self.order = EpochOrder(by_length(self.train_dataset, self.batch_size))
        return self._loader(self.train_dataset, self.order, self.batch_size, self.args.gradient_accumulation_steps)

    def get_eval_dataloader(self, eval_dataset=None):
        """The same of the validation texts, whose batches hold four times as many."""
        rows, size = eval_dataset or self.eval_dataset, 4 * self.batch_size
        order = by_length(rows, size, torch.Generator().manual_seed(self.args.seed))
        return self._loader(rows, order, size, 1)

    def _loader(self, rows: Dataset, order: Sampler[int], batch_size: int, steps: int) -> DataLoader:
        read = rows.select_columns([name for name in rows.column_names if name in self.columns])
        how = {"collate_fn": self.data_collator, "pin_memory": self.args.dataloader_pin_memory}
        return loader(read, order, batch_size, steps, **how)

    def _save_checkpoint(self, model, trial):
        """Write the checkpoint aside. Raises OSError when it cannot be written; those before it stay."""
        checkpoints, step = Path(self.args.output_dir), self.state.global_step
        with written_checkpoint(checkpoints, step) as aside:
            try:
                self.args.output_dir = str(aside)
                super()._save_checkpoint(model, trial)
                self._know_best(checkpoints)
                if not processes.is_first():
                    return
                self.state.save_to_json(str(place_of(aside, step) / TRAINER_STATE_NAME))
                torch.save(self._progress(), place_of(aside, step) / PROGRESS)
                if isinstance(self.model, PeftModel):
                    save_file(self._trained(), place_of(aside, step) / TRAINED)
            finally:
                self.args.output_dir = str(checkpoints)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if isinstance(self.model, PeftModel):
            self._load_trained(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        if isinstance(self.model, PeftModel):
            self._load_trained(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: value.data for name, value in self.model.named_parameters() if value.requires_grad}

    def _load_trained(self, folder: str) -> None:
        stored = load_file(Path(folder, TRAINED))
        for name, value in self._trained().items():
            value.copy_(stored[name])

    def _know_best(self, checkpoints: Path) -> None:
        best = self.state.best_global_step
        self.state.best_model_checkpoint = None if best is None else str(place_of(checkpoints, best))

    def _progress(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds(),
            "order": self.order.drawn_from,
            "loss": self._tr_loss,
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
        }

    def restore(self) -> None:
        """Take up what the Trainer forgets; called when it has restored the rest."""
        self.began, self.earlier, self._initial_global_step = time.monotonic(), 0.0, 0
        if self.resume is None:
            if number := processes.rank():
                torch.manual_seed(self.args.seed + number)  # dropout is to be another one in each process
            return
        self._know_best(Path(self.args.output_dir))
        stored = torch.load(self.resume.folder / PROGRESS, map_location="cpu", weights_only=True)
        self.earlier = stored["seconds"]
        if self.resume.epoch % 1:
            self.order.again = stored["order"]
        self._tr_loss = stored["loss"].to(self.args.device)
        self._total_loss_scalar, self._globalstep_last_logged = stored["logged_loss"], stored["logged_step"]

    def seconds(self) -> float:
        """Seconds of training until now."""
        return self.earlier + time.monotonic() - self.began

    def log(self, logs, start_time=None):
        """Log a row; the times of the last one are those of the whole run."""
        if "train_runtime" in logs:
            share = logs["train_runtime"] / (whole := self.earlier + logs["train_runtime"])
            logs["train_runtime"] = whole
            for name in ("train_samples_per_second", "train_steps_per_second"):
                logs[name] *= share
        super().log(logs, start_time)


def _columns(model: Any) -> set[str]:
    """The columns of a tokenised data set that training reads: what the model takes, and more."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    return {*signature(plain.forward).parameters, *NOT_READ}


class _Restore(TrainerCallback):
    def __init__(self, trainer: ResumableTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restore()
