"""Which texts belong to a new domain: one linear score of the pooled state, fitted beside all that was there before.

Two Gaussians with one covariance (linear discriminant analysis, shrunk after Ledoit and Wolf) and equal priors; then
the score is lowered until few enough of the old texts are taken. Nothing that was fitted before changes.
Legend: D hidden, V old vectors, W new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from ..errors import DataError

FOLDS, LEAST = 5, 20
MARGIN = 0.8  # the share that may move is kept below the limit by this factor, since it is an estimate


@dataclass(frozen=True)
class Fitted:
    """weight `[D]` and bias of the score, which takes a text above 0.

    moved: the largest share of an old part that it would take had it not seen it (cross-validation). found: the share
    of the new vectors, likewise.
    """

    weight: np.ndarray
    bias: float
    moved: float
    found: float


def fit_router(old: Sequence[np.ndarray], new: np.ndarray, max_moved: float, seed: int = 0) -> Fitted:
    """Tell new vectors `[W, D]` from the old ones `[V, D]` of each part of the model, none of which may lose more.

    max_moved: the largest share of a part that may be taken. Raises DataError for too few texts.
    """
    if min(len(new), *map(len, old)) < LEAST:
        raise DataError(f"a domain needs {LEAST} texts with a token or more, and as many old ones; give more")
    vectors = np.concatenate([*old, new])
    is_new = np.arange(len(vectors)) >= len(vectors) - len(new)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    held_out = cross_val_predict(_analysis(), vectors, is_new, cv=folds, method="decision_function")
    borders = np.cumsum([len(part) for part in old])
    parts = np.split(held_out[~is_new], borders[:-1])
    lowered = max(0.0, *(float(np.quantile(part, 1 - MARGIN * max_moved, method="higher")) for part in parts))
    fitted = _analysis().fit(vectors, is_new)
    moved = max(float((part > lowered).mean()) for part in parts)
    found = float((held_out[is_new] > lowered).mean())
    bias = float(np.float32(fitted.intercept_[0] - lowered))
    return Fitted(fitted.coef_[0].astype(np.float32), bias, moved, found)


def _analysis() -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
