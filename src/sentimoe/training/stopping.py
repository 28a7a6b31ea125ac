"""Stopping a run from outside: the step that runs is finished, a checkpoint is written, the run ends."""

from __future__ import annotations

import signal

from ..errors import ExitCode, StoppedError


class Stop:
    """Whether a run was asked to stop.

    signal: the number of the signal that asked; None: nobody did. can_wait: whether the run is at its steps, between
    which it looks here; else whoever catches a signal has to end it. is_repeated: whether a launcher passes on a signal
    that the process had already, so that a second one says no more than the first.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.can_wait = self.is_repeated = False

    def error(self, what: str) -> StoppedError:
        """The error that ends the run. Its exit code is 130 after Ctrl-C, 75 after another signal."""
        error = StoppedError(what)
        if self.signal == signal.SIGINT:
            error.exit_code = ExitCode.INTERRUPTED
        return error
