"""Rows done, on standard error: a bar on a terminal, else a line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .messages import say, visible

SECONDS, SPEED_SECONDS = 30.0, 600.0  # between two lines of a log; over which time left is estimated
Update = Callable[[int, str], None]

if TYPE_CHECKING:
    from sentimoe.predictions import Predictions


def predictions_with_bar(engine: Any, texts: Sequence[Any]) -> Predictions:
    """Answers to the texts, in order."""
    from sentimoe.predictions import joined

    chunks = []
    with counted(len(texts), "predicting") as update:
        for chunk in engine.stream(texts):
            chunks.append(chunk)
            update(len(chunk.probabilities), "predicting")
    return joined(chunks, engine.num_labels)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Say on a terminal what is being loaded, for as long as it takes; in a log, nothing."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(escape(visible(f"loading {name}"))):
        yield


@contextmanager
def lasting(what: str) -> Iterator[None]:
    """Say that something of unknown length goes on: on a terminal at once, else every 30 seconds."""
    if sys.stderr is not None and sys.stderr.isatty():
        with Console(stderr=True).status(escape(visible(what))):
            yield
    else:
        with _lines(0, what, 0):
            yield


@contextmanager
def counted(total: int, what: str, done: int = 0) -> Iterator[Update]:
    """A function to call with the number of rows that were done now, and with what is being done.

    done: rows of the total that were done before.
    """
    with (_bar if sys.stderr is not None and sys.stderr.isatty() else _lines)(total, what, done) as update:
        yield update


@contextmanager
def _bar(total: int, what: str, before: int) -> Iterator[Update]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, speed_estimate_period=SPEED_SECONDS) as progress:
        task = progress.add_task(what, total=total, completed=before, rate="")
        started, done = time.monotonic(), 0

        def update(count: int, now: str) -> None:
            nonlocal done
            done += count
            rate = f"{done / max(time.monotonic() - started, 1e-9):.0f} rows/s" if done else ""
            progress.update(task, advance=count, description=now, rate=rate)

        yield update


@contextmanager
def _lines(total: int, what: str, before: int) -> Iterator[Update]:
    done, doing, started, ended = before, what, time.monotonic(), Event()

    def update(count: int, now: str) -> None:
        nonlocal done, doing
        done, doing = done + count, now

    def tell() -> None:
        while not ended.wait(SECONDS):
            seconds = time.monotonic() - started
            if done >= total:
                say(f"{doing}: {seconds:.0f} s")
                continue
            rate = (done - before) / seconds
            left = f", {_duration((total - done) / rate)} left" if rate else ""
            say(f"{doing}: {done:,} of {total:,} rows{f', {rate:.1f} rows/s' if rate else ''}{left}")

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield update
    finally:
        ended.set()
        teller.join()


def _duration(seconds: float) -> str:
    """Such as 3 h 20 min, 12 min, 40 s."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes - 60 * hours} min"
    return f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"
