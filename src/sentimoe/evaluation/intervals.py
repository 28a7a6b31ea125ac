"""How far a score could move with another draw of as many test texts: percentile bootstrap intervals."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from ..errors import ConfigError, DataError
from .class_indices import read_labels, read_predictions
from .confusion import SHARES, Metric, confusion_cells, score_confusion


def bootstrap_intervals(
    labels: ArrayLike,
    predictions: ArrayLike,
    num_classes: int,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    metrics: Sequence[Metric] = SHARES,
) -> dict[str, list[float]]:
    """Percentile bootstrap intervals of scores over texts.

    The texts are never resampled one by one. Each of the B draws of a resample falls in a (true, predicted) cell with
    probability (texts in the cell) / B, independently of the others, so the cell counts of a resample are exactly
    multinomial, and the scores depend on nothing but those counts.

    The intervals cover the choice of test texts only, not that of the training seed. A class that a
    resample misses does not count in its macro F1. Where all answers are right, or all wrong, no resample differs:
    accuracy then has its exact interval; that of the other scores has no width and says nothing.

    Sources: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; Clopper & Pearson 1934.

    Args:
        labels: [B] int, true classes in 0 .. C-1.
        predictions: [B] int, predicted classes in -1 .. C-1; -1 is unanswered and counts as an error.
        num_classes: C.
        n_resamples: bootstrap resamples.
        confidence: share of the resamples inside the interval, between 0 and 1.
        seed: of the random numbers.
        metrics: which scores; by default accuracy, weighted F1 and macro F1.

    Returns:
        For each of them [low, high], in its units.

    Raises:
        ConfigError: another metric, fewer than 1 resample, or a confidence outside (0, 1).
        DataError: shapes that do not fit, or class indices outside the range.
    """
    check_resampling(n_resamples, confidence)
    true = read_labels(labels, num_classes)
    predicted = read_predictions("predictions", predictions, len(true), num_classes)
    if len(predicted) != 1:
        raise DataError(f"predictions holds {len(predicted)} runs; give one run, shape [{len(true)}]")
    cells = confusion_cells(true, predicted[0], num_classes)
    counts = np.bincount(cells, minlength=num_classes * (num_classes + 1))
    resampled = np.random.default_rng(seed).multinomial(len(true), counts / len(true), size=n_resamples)
    confusions = resampled.reshape(n_resamples, num_classes, num_classes + 1)
    intervals: dict[str, list[float]] = {
        metric: percentile_interval(score_confusion(confusions, metric), confidence) for metric in metrics
    }
    right = int((true == predicted[0]).sum())
    if "accuracy" in intervals and right in (0, len(true)):
        exact = binomtest(right, len(true)).proportion_ci(confidence, "exact")
        intervals["accuracy"] = [float(exact.low), float(exact.high)]
    return intervals


def percentile_interval(values: NDArray[np.float64], confidence: float) -> list[float]:
    """The middle ``confidence`` share of bootstrap values [n_resamples], as [low, high] in their units."""
    tail = (1 - confidence) / 2
    return [float(bound) for bound in np.quantile(values, [tail, 1 - tail])]


def check_resampling(n_resamples: int, confidence: float) -> None:
    """Raise ConfigError unless n_resamples is at least 1 and confidence is between 0 and 1."""
    if n_resamples < 1:
        raise ConfigError(f"n_resamples is {n_resamples}; allowed is 1 or more")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; allowed is between 0 and 1, such as 0.95")
