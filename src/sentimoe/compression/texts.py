"""The texts that a search learns from, chooses by and certifies on: three parts, each text in one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.splitting import normalise
from ..errors import DataError
from ..evaluation import least_trials, most_events, needed_trials

LEAST_TO_LEARN = 200
LEARN, CHOOSE = 0.45, 0.15  # the rest certifies
TOLERANCES = (0.005, 0.01, 0.02)  # that are certified beside the one that is asked for


@dataclass(frozen=True)
class Parts:
    """Different texts. certify_rows: where the last ones stand among those given. repeats, blank, seen: how many were
    left out, and why."""

    learn: list[str]
    choose: list[str]
    certify: list[str]
    certify_rows: list[int]
    repeats: int
    blank: int
    seen: int

    def __str__(self) -> str:
        return (
            f"{len(self.learn):,} texts teach ({self.seen:,} of them the model was trained on), {len(self.choose):,} "
            f"choose and {len(self.certify):,} certify; left out: {self.repeats:,} repeated, {self.blank:,} blank"
        )


def promises(count: int, tolerance: float) -> list[str]:
    """Under which condition so many texts certify each tolerance, a sentence each."""
    told = []
    for each in sorted({*TOLERANCES, tolerance}):
        most = most_events(each, count)
        needed = (
            f"at most {most:,} of {count:,} labels may differ" if most >= 0 else f"needs {least_trials(each):,} texts"
        )
        if count < (enough := needed_trials(each, 0.6)):
            needed += f"; about {enough:,} let a fast model pass"
        told.append(f"to certify max_disagreement={each:g}: {needed}")
    return told


def divided(texts: Sequence[str], seen: np.ndarray, tolerance: float, seed: int) -> Parts:
    """Divide texts at random.

    seen: `[B]` bool, texts that the model was trained or selected on. They may teach the heads, but its answers to them
    are surer than to others, so they neither choose nor certify. Raises DataError where too few are left for any
    promise of this tolerance.
    """
    first: dict[str, int] = {}
    blank = 0
    for index, text in enumerate(texts):
        if not text.strip():
            blank += 1
        else:
            first.setdefault(normalise(text), index)
    kept = np.array(list(first.values()), dtype=int)
    order = np.random.default_rng(seed).permutation(kept)
    fresh, known = [i for i in order if not seen[i]], [i for i in order if seen[i]]
    learn, choose = int(LEARN * len(fresh)), int(CHOOSE * len(fresh))
    certify = fresh[learn + choose :]
    least = least_trials(tolerance)
    if len(certify) < least or len(fresh[:learn]) + len(known) < LEAST_TO_LEARN:
        wanted = math.ceil(max(least / (1 - LEARN - CHOOSE), LEAST_TO_LEARN / LEARN))
        better = math.ceil(needed_trials(tolerance, 0.6) / (1 - LEARN - CHOOSE))
        raise DataError(
            f"{len(fresh)} different texts that the model was not trained on are too few to certify a tolerance of "
            f"{tolerance:g}: it takes {wanted} for any promise, and about {better} for a fast model; "
            "give more texts (they need no labels)"
        )
    pick = lambda rows: [texts[index] for index in rows]  # noqa: E731
    return Parts(
        pick([*known, *fresh[:learn]]), pick(fresh[learn : learn + choose]), pick(certify),
        certify_rows=[int(index) for index in certify],
        repeats=len(texts) - blank - len(kept), blank=blank, seen=len(known),
    )  # fmt: skip
