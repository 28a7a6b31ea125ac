"""Temperature scaling: one number that makes a model as sure as it is right.

Legend: B texts, C classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from sklearn.model_selection import KFold

from ..errors import DataError
from .class_indices import UNANSWERED, read_labels
from .metrics import expected_calibration_error, predicted_labels, reliability_bins

LOWEST, HIGHEST = 0.05, 20.0
PRIOR = 0.5  # standard deviation of its logarithm
FOLDS = 5

ProbabilitiesAt = Callable[[float], NDArray[np.floating]]


def fit_temperature(probabilities_at: ProbabilitiesAt, labels: ArrayLike) -> float:
    """The temperature under which the true classes are likeliest.

    A weak prior (log-normal, median 1, deviation 0.5) keeps it near 1 where texts are few: without an error among them,
    the likeliest temperature is 0.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2; the prior is ours.

    Args:
        probabilities_at: temperature -> [B, C] float, the model's answers with its logits divided by that temperature;
            rows of NaN are left out.
        labels: [B] int, true classes.

    Returns:
        0.05 .. 20; above 1 where the model is too sure of itself.

    Raises:
        DataError: no text is answered, or class indices outside the range.
    """
    return _fit(probabilities_at, labels, None)


def calibration(probabilities_at: ProbabilitiesAt, labels: ArrayLike) -> dict[str, Any]:
    """The temperature, and what it does to the expected calibration error (ECE).

    ``ece_after`` is cross-fitted: each fifth of the texts is scored at the temperature that the other four chose.

    Args:
        probabilities_at: see :func:`fit_temperature`.
        labels: [B] int, true classes; five texts or more.

    Returns:
        ``temperature``, ``ece_before``, ``ece_after`` (0 .. 1) and ``n``, the texts.

    Raises:
        DataError: fewer than five texts, or as :func:`fit_temperature`.
    """
    plain = np.asarray(probabilities_at(1.0))
    true = read_labels(labels, plain.shape[1])
    if len(true) < FOLDS:
        raise DataError(f"a temperature needs {FOLDS} labelled texts or more; there are {len(true)}")
    scaled = np.empty_like(plain)
    for fitted, held_out in KFold(FOLDS, shuffle=True, random_state=0).split(true):
        scaled[held_out] = probabilities_at(_fit(probabilities_at, true, fitted))[held_out]
    return {
        "temperature": _fit(probabilities_at, true, None),
        "ece_before": expected_calibration_error(reliability_bins(true, plain)),
        "ece_after": expected_calibration_error(reliability_bins(true, scaled)),
        "n": len(true),
    }


def _fit(probabilities_at: ProbabilitiesAt, labels: ArrayLike, rows: NDArray[np.int64] | None) -> float:
    plain = np.asarray(probabilities_at(1.0))
    true = read_labels(labels, plain.shape[1])
    answered = np.flatnonzero(predicted_labels(plain) != UNANSWERED)
    used = answered if rows is None else np.intersect1d(answered, rows)
    if not len(used):
        raise DataError("no text has an answer, so there is nothing to fit a temperature to")

    def loss(logarithm: float) -> float:
        likelihood = np.asarray(probabilities_at(float(np.exp(logarithm))), dtype=np.float64)[used, true[used]]
        return -np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).sum() + logarithm**2 / (2 * PRIOR**2)

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))
