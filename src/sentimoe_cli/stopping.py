"""SIGTERM and Ctrl-C while a command trains: the step is finished and saved, and one line says how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from sentimoe_settings.errors import ExitCode, StoppedError

from .launched import is_first, several

if TYPE_CHECKING:
    from sentimoe.training import Stop


SAVED_BEFORE = "what was saved before is there"
GRACE = 20.0  # seconds: torchrun kills a process 30 after it asked it to stop


class _AtOnce(BaseException):
    """Ends what runs, wherever it is: no Exception, which a library may catch and take for one of its own."""


@contextmanager
def _ended_in_time() -> Iterator[None]:
    """End a process that was signalled but waits for another, where no signal reaches Python, after a while."""
    ended = threading.Event()
    signalled, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def watch() -> None:
        if os.read(signalled, 1) and not ended.wait(GRACE):
            os.write(2, b"error: stopped, because the step did not end within 20 s; " + SAVED_BEFORE.encode() + b"\n")
            os._exit(ExitCode.STOPPED)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(told)
        watcher.join()
        os.close(signalled)


@contextmanager
def stopped_by_signals(command: str, *flags: str) -> Iterator[Stop]:
    """What the run inside is to look at. A second signal, or one while nothing is trained, ends the command at once.

    command: the name that it is called by. flags: what it has to be given to go on, besides what it was given.
    """
    held: list[Stop] = []  # nothing while torch is imported

    def ask(number: int, frame: object) -> None:
        again = not held or (held[0].signal is not None and not held[0].is_repeated) or not held[0].can_wait
        asked.append(number)
        for stop in held:
            stop.signal = number
        if again:
            raise _AtOnce
        if is_first():
            os.write(2, b"\nstopping after this step\n")  # print is not safe in a signal handler

    asked: list[int] = []
    here = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    after: dict[Any, Any] = {number: signal.signal(number, ask) for number in here}
    try:
        with _ended_in_time() if here and several() else nullcontext():
            from sentimoe.training import Stop

            held.append(Stop())
            yield held[0]
    except (_AtOnce, StoppedError) as caught:
        if several():  # the signal of the launcher, which comes while the process ends, would change its exit code
            for number in here:
                signal.signal(number, signal.SIG_IGN)
            after = {}
        error = caught if isinstance(caught, StoppedError) else StoppedError(f"stopped; {SAVED_BEFORE}")
        if isinstance(caught, _AtOnce) and asked[-1] == signal.SIGINT:
            error.exit_code = ExitCode.INTERRUPTED
        given = [*sys.argv[1:], *(flag for flag in flags if flag not in sys.argv)]
        error.args = (f"{error}; go on with: {command} {shlex.join(given)}",)
        raise error from None
    finally:
        for number, handler in after.items():
            signal.signal(number, handler)
