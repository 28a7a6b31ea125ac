"""How far predictions are from the truth where classes have an order, such as stars."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import cohen_kappa_score

from ..errors import DataError
from .class_indices import UNANSWERED, read_labels, read_predictions


def ordinal_metrics(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> dict[str, float | None]:
    """Scores of ordered classes, over the answered texts.

    Args:
        labels: [B] int, true classes in 0 .. C-1, in their order.
        predictions: [B] int, predicted classes in -1 .. C-1; -1 is unanswered and left out.
        num_classes: C.

    Returns:
        ``mae``: mean distance in classes. ``within_one``: share at most one class off, 0 .. 1. ``quadratic_kappa``:
        agreement beyond chance, 1 at best (Cohen 1968); None where labels and predictions are all one class. All are
        None where no text is answered.

    Raises:
        DataError: shapes that do not fit, or class indices outside the range.
    """
    true = read_labels(labels, num_classes)
    predicted = read_predictions("predictions", predictions, len(true), num_classes)
    if len(predicted) != 1:
        raise DataError(f"predictions holds {len(predicted)} runs; give one run, shape [{len(true)}]")
    answered = predicted[0] != UNANSWERED
    if not answered.any():
        return {"mae": None, "within_one": None, "quadratic_kappa": None}
    ours, given = true[answered], predicted[0][answered]
    distance = np.abs(ours - given)
    several = len({*ours.tolist(), *given.tolist()}) > 1
    kappa = cohen_kappa_score(ours, given, weights="quadratic", labels=range(num_classes)) if several else None
    return {
        "mae": float(distance.mean()),
        "within_one": float((distance <= 1).mean()),
        "quadratic_kappa": None if kappa is None else float(kappa),
    }
