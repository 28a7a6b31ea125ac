"""How far a training run is, on standard error: a bar on a terminal, else a line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import TrainerCallback

SECONDS = 30.0


class Progress(TrainerCallback):
    """Follows a run and shows nothing."""

    loss = score = ""

    def now(self, what: str) -> None:
        """Be told what is done from now on."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        if "loss" in logs:
            self.loss = f", loss {logs['loss']:.3f}"
        score = logs.get(f"eval_{args.metric_for_best_model}")
        self.score = self.score if score is None else f", validation {args.metric_for_best_model} {score:.4f}"


class ProgressBar(Progress):
    """Steps done, the last loss and the last validation metric."""

    def __init__(self) -> None:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scores]}", markup=False),
        )
        self.bar = Bar(TextColumn("training"), *columns, console=Console(stderr=True))

    def on_train_begin(self, args, state, control, **kwargs):
        self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step, scores="")
        self.bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(self.task, completed=state.global_step, scores=(self.loss + self.score).removeprefix(", "))

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.stop()


class ProgressLines(Progress):
    """What is done, for `write_lines` to write."""

    what = "starting"
    began: tuple[float, int] = (0.0, 0)

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = (time.monotonic(), state.global_step)
        epochs = f"{state.num_train_epochs} epoch{'s' * (state.num_train_epochs != 1)}"
        line = f"training: {epochs}, {state.max_steps} steps in all; if it is stopped, --resume goes on"
        print(line, file=sys.stderr, flush=True)

    def now(self, what: str) -> None:
        self.what = what

    def on_step_end(self, args, state, control, **kwargs):
        started, first = self.began
        left = (time.monotonic() - started) * (state.max_steps - state.global_step) / (state.global_step - first)
        self.now(f"step {state.global_step} of {state.max_steps}, {_time(left)} left{self.loss}{self.score}")

    def on_prediction_step(self, args, state, control, **kwargs):
        self.now(f"validation after step {state.global_step} of {state.max_steps}{self.loss}{self.score}")

    def write_lines(self, ended: Event) -> None:
        while not ended.wait(SECONDS):
            print(f"training: {self.what}", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def shown(wanted: bool) -> Iterator[Progress]:
    """The progress of what runs inside."""
    if not wanted:
        yield Progress()
    elif sys.stderr is not None and sys.stderr.isatty():
        bar = ProgressBar()
        try:
            yield bar
        finally:
            bar.bar.stop()
    else:
        lines, ended = ProgressLines(), Event()
        writer = Thread(target=lines.write_lines, args=(ended,), daemon=True)
        writer.start()
        try:
            yield lines
        finally:
            ended.set()
            writer.join()
