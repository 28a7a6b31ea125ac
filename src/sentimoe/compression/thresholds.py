"""From which confidence on a text may leave: settings from the safest to the fastest.

Legend: B texts, S segments; the last segment has no threshold, because nobody stays after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEVER = 2.0  # above every probability
RATES = (0.0, *(step / 1000 for step in range(1, 21)), 0.025, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4)


def settings(confidence: np.ndarray, differs: np.ndarray) -> list[tuple[float, ...]]:
    """Thresholds `[S - 1]` for rising shares of other answers, equal ones once.

    confidence, differs: `[S, B]` on the texts that choose: the highest probability after each segment, and whether
    that label is another than the whole model's. The first setting lets nobody leave.
    """
    found = [(NEVER,) * (len(confidence) - 1)]
    for rate in RATES:
        thresholds = _within(confidence[:-1], differs[:-1], rate)
        if thresholds != found[-1]:
            found.append(thresholds)
    return found


def _within(confidence: np.ndarray, differs: np.ndarray, rate: float) -> tuple[float, ...]:
    """The loosest thresholds at which no exit gives another answer to more than its part of the texts.

    Each exit has an equal part of `rate`, and what those before it left over.
    """
    exits, count = confidence.shape
    staying, allowed = np.ones(count, dtype=bool), 0.0
    thresholds = []
    for sure, other in zip(confidence, differs, strict=True):
        allowed += rate * count / exits
        order = np.flatnonzero(staying)[np.argsort(-sure[staying], kind="stable")]
        wrong = np.cumsum(other[order])
        ends = np.flatnonzero((wrong <= allowed) & np.append(np.diff(sure[order]) != 0, True))  # equal ones together
        value = float(sure[order[ends[-1]]]) if len(ends) else NEVER
        leaving = staying & (sure >= value)
        allowed -= float(other[leaving].sum())
        staying &= ~leaving
        thresholds.append(value)
    return tuple(thresholds)


def leaves_after(confidence: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """After which segment each text leaves, `[B]` from 0."""
    limits = np.array([*thresholds, -np.inf])[:, None]
    return (confidence >= limits).argmax(axis=0)
