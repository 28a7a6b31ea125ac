"""All that `evaluate` measures of answers to labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentimoe.evaluation import (
    ORDERED,
    bootstrap_intervals,
    evaluate_predictions,
    group_metrics,
    most_frequent,
    ordinal_metrics,
    predicted_labels,
    risk_coverage,
)


def scores(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating[Any]],
    names: Sequence[str],
    *,
    seen: NDArray[np.bool_],
    groups: Sequence[str] | None,
    order: Sequence[str] | None,
) -> dict[str, Any]:
    """Metrics of all texts, of those that are new to the model (`unseen`) and of each group (`groups`).

    Args:
        labels: Of the texts, [B].
        probabilities: Of the classes, [B, C]; NaN where there is no answer.
        names: Of the classes, C.
        seen: Which texts the model was trained on, [B].
        groups: The group of each text, B; None: no groups.
        order: The classes from lowest to highest; None: they have no order.
    """
    answers, new = predicted_labels(probabilities), ~seen
    found = evaluate_predictions(labels.tolist(), probabilities, names)
    found["most_frequent"] = most_frequent(labels, names)
    found["risk_coverage"] = risk_coverage(probabilities.max(axis=1), answers == labels)
    if seen.any() and new.any():
        found["unseen"] = evaluate_predictions(labels[new].tolist(), probabilities[new], names)
    if groups is not None:
        found["groups"] = group_metrics(groups, labels, probabilities, names)
    if order is None:
        return found
    places = np.array([order.index(name) for name in names] + [-1])  # the last: where there is no answer, -1
    true, told, classes = places[labels], places[answers], len(order)
    found |= {"ordinal": ordinal_metrics(true, told, classes), "order": list(order)}
    found["intervals"] |= bootstrap_intervals(true, told, classes, metrics=ORDERED)
    if "unseen" in found:
        found["unseen"]["ordinal"] = ordinal_metrics(true[new], told[new], classes)
    of = np.array(groups, dtype=object)
    for row in found.get("groups", ()):
        inside = of == row["group"]
        row["ordinal"] = ordinal_metrics(true[inside], told[inside], classes)
        row["intervals"] |= bootstrap_intervals(true[inside], told[inside], classes, metrics=ORDERED)
    return found
