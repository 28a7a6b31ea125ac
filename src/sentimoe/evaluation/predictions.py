"""All that is said about the predictions on one split: scores and their intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .intervals import bootstrap_intervals
from .metrics import classification_metrics, predicted_labels


def evaluate_predictions(
    labels: Sequence[int], probabilities: np.ndarray, label_names: Sequence[str]
) -> dict[str, Any]:
    """Metrics of `classification_metrics` plus `intervals`, 95% bootstrap intervals over texts.

    labels `[B]`, probabilities `[B, C]` (a row of NaN: unanswered, counted as wrong). JSON-able.
    """
    truth = np.asarray(labels)
    intervals = bootstrap_intervals(truth, predicted_labels(probabilities), len(label_names))
    return classification_metrics(truth, probabilities, label_names) | {"intervals": intervals}
