"""What a training run leaves while it runs: log rows, whole checkpoints, a progress bar on standard error."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

COMPLETE = "complete"


class LogRows(TrainerCallback):
    """Appends every logged row to a JSONL file."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args, state, control, logs=None, **kwargs):
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once it is whole: a run killed while writing one resumes from the one before.

    The mark holds the seconds of training that the checkpoint took, `earlier` ones among them.
    """

    def __init__(self, earlier: float):
        self.earlier = earlier

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.monotonic()

    def on_save(self, args, state, control, **kwargs):
        mark = Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE
        mark.write_text(str(self.earlier + time.monotonic() - self.started), encoding="utf-8")


def last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; None when there is none."""
    found = folder.glob(f"checkpoint-*/{COMPLETE}")
    steps = sorted((int(marker.parent.name.split("-")[1]), str(marker.parent)) for marker in found)
    return steps[-1][1] if steps else None


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
