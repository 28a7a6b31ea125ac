"""Scores of each group of texts, such as those of one product, and which groups are worse than the others.

Legend: B texts, G groups.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import fisher_exact

from ..errors import DataError
from .class_indices import read_labels
from .metrics import predicted_labels
from .predictions import evaluate_predictions

LEVEL = 0.05


def group_metrics(
    groups: Sequence[Hashable], labels: ArrayLike, probabilities: ArrayLike, label_names: Sequence[str]
) -> list[dict[str, Any]]:
    """All metrics of each group, with intervals, largest group first.

    A group is worse when its accuracy is lower than that of all other texts by Fisher's exact test, one-sided, at 5%
    over all groups together (Holm 1979).

    Args:
        groups: B values, such as the names of products.
        labels, probabilities, label_names: as `evaluate_predictions` takes them.

    Returns:
        G rows: ``group``, the metrics, ``p_worse`` (corrected; 1 for a group that is all texts) and ``worse``.

    Raises:
        DataError: shapes that do not fit.
    """
    answers = np.asarray(probabilities)
    true = read_labels(labels, answers.shape[1])
    if len(groups) != len(true):
        raise DataError(f"there are {len(groups)} groups and {len(true)} labels; give one group per label")
    right = predicted_labels(answers) == true
    places: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    rows = []
    for group in sorted(places, key=lambda group: (-len(places[group]), str(group))):
        inside = np.zeros(len(true), dtype=bool)
        inside[places[group]] = True
        metrics = evaluate_predictions(true[inside].tolist(), answers[inside], label_names)
        counts = [[int((right & part).sum()), int((~right & part).sum())] for part in (inside, ~inside)]
        rows.append({"group": group, **metrics, "p_worse": float(fisher_exact(counts, "less").pvalue)})
    for row, corrected in zip(rows, holm([row["p_worse"] for row in rows]), strict=True):
        row |= {"p_worse": corrected, "worse": corrected < LEVEL}
    return rows


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for how many there are, in the order given. Source: Holm 1979."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()
