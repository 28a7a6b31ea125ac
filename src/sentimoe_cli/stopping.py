"""SIGTERM and Ctrl-C while a command trains: the step is finished and saved, and one line says how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .launched import is_first

if TYPE_CHECKING:
    from sentimoe.training import Stop


SAVED = "stopped; what was saved before is there"


class _AtOnce(BaseException):
    """Ends what runs, wherever it is: no Exception, which a library may catch and take for one of its own."""


@contextmanager
def stopped_by_signals(command: str, *flags: str) -> Iterator[Stop]:
    """What the run inside is to look at. A second signal, or one while nothing is trained, ends the command at once.

    command: the name that it is called by. flags: what it has to be given to go on, besides what it was given.
    """
    from sentimoe.errors import StoppedError
    from sentimoe.training import Stop

    stop = Stop()

    def ask(number: int, frame: object) -> None:
        again = stop.signal is not None and not stop.is_repeated
        stop.signal = number
        if again or not stop.can_wait:
            raise _AtOnce
        if is_first():
            os.write(2, b"\nstopping after this step\n")  # print is not safe in a signal handler

    here = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in here}
    try:
        yield stop
    except (_AtOnce, StoppedError) as caught:
        error = stop.error(SAVED) if isinstance(caught, _AtOnce) else caught
        given = [*sys.argv[1:], *(flag for flag in flags if flag not in sys.argv)]
        error.args = (f"{error}; go on with: {command} {shlex.join(given)}",)
        raise error from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
