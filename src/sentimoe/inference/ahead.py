"""Prepare the next chunk in a thread of its own while the caller works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def prepared_ahead(chunks: Iterable[Given], prepare: Callable[[Given], Made]) -> Iterator[tuple[Given, Made]]:
    """Each chunk and what `prepare` makes of it, in order.

    Chunks are read in the caller's thread, one ahead. What reading or preparing a chunk raises is raised after the
    chunks before it.
    """
    source = iter(chunks)
    here = next(source, None)
    if here is None:
        return
    following, failed = _next(source)
    if following is None and failed is None:
        yield here, prepare(here)  # one chunk needs no thread
        return
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(prepare, here)
        while following is not None:
            coming = pool.submit(prepare, following)
            yield here, made.result()
            here, made = following, coming
            following, failed = _next(source)
        yield here, made.result()
    if failed is not None:
        raise failed


def _next(source: Iterator[Given]) -> tuple[Given | None, Exception | None]:
    try:
        return next(source, None), None
    except Exception as error:  # noqa: BLE001 - raised once the chunks before it are through
        return None, error
