"""A score over several training seeds: its mean and spread, and the paired t test between two methods."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t, ttest_rel

from ..errors import DataError


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Mean, spread and 95% interval of the mean of one score over seeds (Student's t).

    Args:
        values: one finite score per seed, at least one.

    Returns:
        ``mean``, ``std`` (sample standard deviation, n - 1 in the denominator), ``n``, ``interval`` [low, high] of the
        mean, and ``values``, in the units given. One seed shows no spread: ``std`` and ``interval`` are then None.

    Raises:
        DataError: no values, or values that are not finite.
    """
    scores = _read_scores("values", values)
    n, mean = len(scores), float(scores.mean())
    std, interval = None, None
    if n > 1:
        std = float(scores.std(ddof=1))
        margin = float(t.ppf(0.975, n - 1)) * std / n**0.5
        interval = [mean - margin, mean + margin]
    return {"mean": mean, "std": std, "n": n, "interval": interval, "values": scores.tolist()}


def paired_t(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Paired t test of two methods trained with the same seeds; the interval is that of the mean difference a - b.

    Args:
        a: one finite score per seed.
        b: the same for the other method, in the same order of seeds.

    Returns:
        ``difference`` (mean of a - b), ``interval`` [low, high] (95%), ``p_value`` (two-sided) and ``n``. Where the
        differences show no spread beyond rounding (one seed, or equal differences) there is nothing to judge the
        difference by: ``interval`` and ``p_value`` are then None.

    Raises:
        DataError: no values, values that are not finite, or unequal numbers of seeds.
    """
    scores_a, scores_b = _read_scores("a", a), _read_scores("b", b)
    if len(scores_a) != len(scores_b):
        raise DataError(f"a has {len(scores_a)} seeds and b has {len(scores_b)}; give the same seeds for both")
    differences = scores_a - scores_b
    interval, p_value = None, None
    rounding = 1e-12 * max(np.abs(scores_a).max(), np.abs(scores_b).max())
    if np.ptp(differences) > rounding:
        result = ttest_rel(scores_a, scores_b)
        interval = [float(bound) for bound in result.confidence_interval(0.95)]
        p_value = float(result.pvalue)
    return {"difference": float(differences.mean()), "interval": interval, "p_value": p_value, "n": len(differences)}


def _read_scores(name: str, values: Sequence[float]) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
        raise DataError(f"{name} is {values!r}; give at least one finite score, one per seed")
    return scores
