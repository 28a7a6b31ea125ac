"""Timing in turns: on a machine whose speed drifts, only what ran beside each other can be compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

NOISY = 1.5


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int = 9, progress: Callable[[str], None] = lambda line: None
) -> dict[str, list[float]]:
    """Seconds of every call in every round; each call runs once in a round, after one untimed round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-1, rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
        progress(f"round {number + 1} of {rounds}" if number >= 0 else "warm")
    return seconds


def throughput(seconds: Sequence[float], count: int) -> dict[str, Any]:
    """`texts_per_second`, the median over the rounds, and its quartiles."""
    rates = [count / each for each in seconds]
    low, _, high = quantiles(rates, n=4)
    return {"texts_per_second": median(rates), "quartiles": [low, high]}


def is_noisy(timed: Mapping[str, Any]) -> bool:
    """Whether a `ratio` says nothing: its upper quartile is over 1.5 times the lower one."""
    low, high = timed["quartiles"]
    return high > NOISY * low


def ratio(slower: Sequence[float], faster: Sequence[float]) -> dict[str, Any]:
    """How many times as fast: the median over the rounds of the two times of each round, and its quartiles."""
    ratios = [a / b for a, b in zip(slower, faster, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return {"ratio": median(ratios), "quartiles": [low, high]}
