"""Whether two methods differ on the same test texts, and by how much.

Legend: B texts, S and S' seeds (training runs) of methods a and b.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from ..errors import DataError
from .class_indices import read_labels, read_predictions
from .confusion import Metric, confusion_cells, score_confusion
from .intervals import check_resampling, percentile_interval


def mcnemar(labels: ArrayLike, predictions_a: ArrayLike, predictions_b: ArrayLike) -> dict[str, Any]:
    """Exact McNemar test of two runs: is one right where the other is wrong more often than a fair coin would be?

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages";
    for classifiers: Dietterich 1998, "Approximate Statistical Tests for Comparing Supervised Classification Learning
    Algorithms".

    Args:
        labels: [B] int, true classes, 0 or more.
        predictions_a: [B] int, -1 (unanswered, always wrong) or more.
        predictions_b: [B] int, likewise.

    Returns:
        ``b``: texts that only a gets right; ``c``: texts that only b gets right; ``p_value``: two-sided, exact
        binomial, 1 where b + c is 0.

    Raises:
        DataError: shapes that do not fit, or class indices outside the range.
    """
    true = read_labels(labels)
    right_a = read_predictions("predictions_a", predictions_a, len(true)) == true
    right_b = read_predictions("predictions_b", predictions_b, len(true)) == true
    if len(right_a) != 1 or len(right_b) != 1:
        raise DataError(f"there are {len(right_a)} and {len(right_b)} runs; McNemar's test compares one with one")
    only_a = int(np.sum(right_a & ~right_b))
    only_b = int(np.sum(right_b & ~right_a))
    discordant = only_a + only_b
    p_value = float(binomtest(only_a, discordant).pvalue) if discordant else 1.0
    return {"b": only_a, "c": only_b, "p_value": p_value}


def paired_bootstrap(
    labels: ArrayLike,
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    metric: Metric = "f1_weighted",
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    paired_seeds: bool = False,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Difference a - b of the mean score over seeds, with both sources of noise: the test texts and the seeds.

    Each resample draws B texts with replacement, the same for every run of both methods (that is the pairing), and
    then seeds with replacement. Of S seeds it draws S - 1: S draws would give the mean a variance too small by
    (S - 1) / S (Rao & Wu 1988, "Resampling Inference With Complex Survey Data"), which matters for a handful of seeds.
    One seed shows no seed noise at all; the interval then speaks of those two trained models, not of the methods.

    Where seeds disagree text by text more than in overall score, resampling both counts that noise more than once and
    the interval is too wide, the safe side (Owen 2007, "The pigeonhole bootstrap"). Where overall score varies much
    between only 2 or 3 seeds it is too narrow, as any percentile interval of so few values: use more seeds.

    The p-value is twice the smaller share of resamples on either side of 0, the resample at hand counted in. Where the
    bootstrap differences are symmetric it is the two-sided form of the share beyond twice the observed difference of
    Berg-Kirkpatrick et al. 2012, "An Empirical Investigation of Statistical Significance in NLP"; unlike that share
    it agrees with the interval (to within one resample).

    Args:
        labels: [B] int, true classes in 0 .. C-1.
        predictions_a: [S, B] or [B] int, predicted classes in -1 .. C-1; -1 is unanswered and counts as an error.
        predictions_b: [S', B] or [B] int, likewise.
        metric: ``"f1_weighted"``, ``"f1_macro"``, ``"accuracy"``, or ``"mae"``, the mean distance of ordered classes.
        n_resamples: bootstrap resamples.
        confidence: share of the resamples inside the interval, between 0 and 1.
        seed: of the random numbers.
        paired_seeds: run i of a and run i of b belong together (same split, same data order) and are drawn together;
            otherwise the seeds of each method are drawn on their own.
        num_classes: C; by default the highest class seen, plus one.

    Returns:
        ``metric``; ``mean_a`` and ``mean_b`` (0 .. 1, ``"mae"`` in classes); ``difference`` and ``interval`` [low,
        high], in the same units; ``p_value``; ``distinguishable``: whether the interval excludes 0; ``n_seeds_a``,
        ``n_seeds_b``.

    Raises:
        ConfigError: another metric, fewer than 1 resample, or a confidence outside (0, 1).
        DataError: shapes that do not fit, class indices outside the range, or paired seeds of unequal number.
    """
    check_resampling(n_resamples, confidence)
    true = read_labels(labels, num_classes)
    runs_a = read_predictions("predictions_a", predictions_a, len(true), num_classes)
    runs_b = read_predictions("predictions_b", predictions_b, len(true), num_classes)
    n_a, n_b = len(runs_a), len(runs_b)
    if paired_seeds and n_a != n_b:
        raise DataError(f"there are {n_a} runs of a and {n_b} of b; paired seeds need as many of each")

    runs = np.concatenate([runs_a, runs_b])
    classes = num_classes or int(max(true.max(), runs.max())) + 1
    shape = (n_a + n_b, classes, classes + 1)
    # Every run gets cells of its own, so that one weighted count fills all confusion matrices of a resample.
    first_cell = np.arange(len(runs))[:, None] * (classes * (classes + 1))
    cells = (confusion_cells(true, runs, classes) + first_cell).ravel()
    observed = score_confusion(np.bincount(cells, minlength=np.prod(shape)).reshape(shape), metric)

    rng = np.random.default_rng(seed)
    confusions = np.empty((n_resamples, *shape))
    for confusion in confusions:
        times_drawn = np.bincount(rng.integers(len(true), size=len(true)), minlength=len(true))
        weights = np.tile(times_drawn.astype(np.float64), len(runs))
        confusion[:] = np.bincount(cells, weights=weights, minlength=np.prod(shape)).reshape(shape)
    scores = score_confusion(confusions, metric)

    seeds_a = rng.integers(n_a, size=(n_resamples, max(n_a - 1, 1)))
    seeds_b = seeds_a if paired_seeds else rng.integers(n_b, size=(n_resamples, max(n_b - 1, 1)))
    means_a = np.take_along_axis(scores[:, :n_a], seeds_a, axis=1).mean(axis=1)
    means_b = np.take_along_axis(scores[:, n_a:], seeds_b, axis=1).mean(axis=1)
    differences = means_a - means_b

    low, high = percentile_interval(differences, confidence)
    smaller_side = min(int(np.sum(differences <= 0)), int(np.sum(differences >= 0)))
    mean_a, mean_b = float(observed[:n_a].mean()), float(observed[n_a:].mean())
    return {
        "metric": metric,
        "mean_a": mean_a,
        "mean_b": mean_b,
        "difference": mean_a - mean_b,
        "interval": [low, high],
        "p_value": min(1.0, 2 * (smaller_side + 1) / (n_resamples + 1)),
        "distinguishable": low > 0 or high < 0,
        "n_seeds_a": n_a,
        "n_seeds_b": n_b,
    }
