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

SECONDS = 30.0
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
def counted(total: int, what: str) -> Iterator[Update]:
    """A function to call with the number of rows that were done now, and with what is being done."""
    with (_bar if sys.stderr is not None and sys.stderr.isatty() else _lines)(total, what) as update:
        yield update


@contextmanager
def _bar(total: int, what: str) -> Iterator[Update]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count, now: progress.update(task, advance=count, description=now)


@contextmanager
def _lines(total: int, what: str) -> Iterator[Update]:
    done, doing, started, ended = 0, what, time.monotonic(), Event()

    def update(count: int, now: str) -> None:
        nonlocal done, doing
        done, doing = done + count, now

    def tell() -> None:
        while not ended.wait(SECONDS):
            seconds = time.monotonic() - started
            rows = f"{done:,} of {total:,} rows, {done / seconds:.1f} rows/s" if done < total else f"{seconds:.0f} s"
            say(f"{doing}: {rows}")

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield update
    finally:
        ended.set()
        teller.join()
