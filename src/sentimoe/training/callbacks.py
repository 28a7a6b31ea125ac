"""What a training run does between its steps: log rows and checkpoints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..records import write_text
from . import processes
from .stopping import Stop


class LogRows(TrainerCallback):
    """Appends every logged row to a JSONL file; a run that goes on writes those until its checkpoint again first."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        write_text(self.path, "".join(map(_line, state.log_history)))

    def on_log(self, args, state, control, logs=None, **kwargs):
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(state.log_history[-1]))


def _line(row: dict[str, Any]) -> str:
    return json.dumps({"step": row["step"], **row}) + "\n"


class SaveOften(TrainerCallback):
    """Has a checkpoint written every so many minutes or steps, and when a signal asks to stop: then the run ends.

    Never after the last step of an epoch, whose checkpoint is written once it is validated. Of several processes one
    that is due or asked is enough. Raises StoppedError.
    """

    def __init__(self, minutes: float, steps: int | None, stop: Stop):
        self.minutes, self.steps, self.stop = minutes, steps, stop

    def on_train_begin(self, args, state, control, **kwargs):
        self.saved = time.monotonic()
        self.stop.can_wait, self.stop.is_repeated = True, processes.count() > 1

    def on_step_end(self, args, state, control, **kwargs):
        due = time.monotonic() - self.saved >= 60 * self.minutes
        due = due or (self.steps is not None and state.global_step % self.steps == 0)
        if self._asked(due) and state.epoch % 1:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.monotonic()
        if self._asked():
            raise self.stop.error(f"stopped after step {state.global_step} of {state.max_steps}, and saved there")

    def on_train_end(self, args, state, control, **kwargs):
        self.stop.can_wait = False
        if self._asked():
            raise self.stop.error("stopped after the last step, which is saved")

    def _asked(self, due: bool = False) -> bool:
        """Whether any process was asked to stop, or is due; all get the same answer."""
        number, any_due = processes.greatest([self.stop.signal or 0, due])
        if number:
            self.stop.signal = number
        return bool(number or any_due)
