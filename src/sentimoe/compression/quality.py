"""Where labels are at hand: what the faster classifier costs in F1, on the texts that certified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.text import is_missing
from ..errors import DataError
from ..evaluation import least_trials, paired_bootstrap

MARGIN = 0.005  # of weighted F1: a loss of half a point
LEAST_LABELLED = 100


def label_indices(labels: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """The place of each label among the names, `[B]`; -1 for a missing one. Raises DataError for another label."""
    places = {name: index for index, name in enumerate(names)} | {None: -1}
    given = [None if is_missing(label) else str(label) for label in labels]
    if other := sorted({str(label) for label in given} - {str(name) for name in places}):
        raise DataError(f"the labels {', '.join(other[:5])} are not of the model, which has {', '.join(names)}")
    return np.array([places[label] for label in given])


def quality(labels: np.ndarray, original: np.ndarray, fast: np.ndarray, seed: int) -> dict[str, Any] | None:
    """Weighted F1 of both on the labelled texts, the difference with its interval, and whether it is small enough.

    labels: `[B]`, -1 where there is none. original, fast: what they answer, `[B]`. `noninferior`: the one-sided 95%
    lower bound of the difference (the lower end of a two-sided 90% interval) lies above minus half a point, and there
    are enough texts (598) that so great a loss would have shown in one of them. None where under 100 have a label.
    """
    known = labels >= 0
    if known.sum() < LEAST_LABELLED:
        return None
    true, ours, theirs = labels[known], fast[known], original[known]
    told = {"interval": 0.95, "interval_90": 0.9}
    tests = {name: paired_bootstrap(true, ours, theirs, confidence=level, seed=seed) for name, level in told.items()}
    return {
        "texts": int(known.sum()),
        "f1_weighted": tests["interval"]["mean_a"],
        "original_f1_weighted": tests["interval"]["mean_b"],
        "difference": tests["interval"]["difference"],
        **{name: list(test["interval"]) for name, test in tests.items()},
        "margin": MARGIN,
        "noninferior": bool(tests["interval_90"]["interval"][0] > -MARGIN and len(true) >= least_trials(MARGIN)),
    }
