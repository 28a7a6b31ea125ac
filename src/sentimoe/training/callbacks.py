"""What a training run leaves while it runs: log rows, whole checkpoints, a progress bar on standard error."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from ..records import read_json, write_json

COMPLETE = "complete.json"


class LogRows(TrainerCallback):
    """Appends every logged row to a JSONL file; a run that goes on drops the rows after its checkpoint."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        rows = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        whole = [row for row in rows if row.endswith("\n")]  # a run may be killed while it writes one
        kept = [row for row in whole if json.loads(row)["step"] <= state.global_step]
        self.path.write_text("".join(kept), encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **kwargs):
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once it is whole: a run killed while writing one resumes from the one before.

    The mark holds the seconds of training that the checkpoint took, `earlier` ones among them, and the names of its
    files, because a checkpoint that is being deleted may keep its mark longer than the rest.
    """

    def __init__(self, earlier: float):
        self.earlier = earlier

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.monotonic()

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        seconds = self.earlier + time.monotonic() - self.started
        write_json(folder / COMPLETE, {"seconds": seconds, "files": sorted(path.name for path in folder.iterdir())})


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint. seconds: of training until it. worse: epochs since the best one, as early stopping counts."""

    folder: Path
    seconds: float
    epochs: int
    worse: int


def last_complete_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that was written to its end and not touched since; None when there is none."""
    marks = sorted(folder.glob(f"checkpoint-*/{COMPLETE}"), key=lambda mark: -int(mark.parent.name.split("-")[1]))
    for mark in marks:
        told, place = read_json(mark), mark.parent
        if all((place / name).exists() for name in told["files"]):
            state = read_json(place / TRAINER_STATE_NAME)
            worse = state["stateful_callbacks"]["EarlyStoppingCallback"]["attributes"][
                "early_stopping_patience_counter"
            ]
            return Checkpoint(place, told["seconds"], round(state["epoch"]), worse)
    return None


class ProgressBar(TrainerCallback):
    """Steps done, the last loss and the last validation metric."""

    def __init__(self, metric: str):
        self.metric, self.loss, self.score = metric, "", ""
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )

    def on_train_begin(self, args, state, control, **kwargs):
        self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step)
        self.bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        self.loss = f"loss {float(logs['loss']):.3f} " if "loss" in logs else self.loss
        score = logs.get(f"eval_{self.metric}")
        self.score = self.score if score is None else f"validation {self.metric} {float(score):.4f}"
        self.bar.update(self.task, description=self.loss + self.score)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.stop()
