"""Scores as functions of confusion counts, for many confusion matrices at once.

Accuracy, F1 and the distance of ordered classes see the texts only through the counts of (true, predicted) pairs. A
bootstrap therefore never needs the resampled texts themselves, only their counts. The last column counts the texts left
unanswered: they belong to no predicted class, but still to the support of their true class.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .class_indices import UNANSWERED

Metric = Literal["accuracy", "f1_weighted", "f1_macro", "mae", "within_one", "quadratic_kappa"]
SHARES: tuple[Metric, ...] = ("accuracy", "f1_weighted", "f1_macro")  # of classes in any order
ORDERED: tuple[Metric, ...] = ("mae", "within_one", "quadratic_kappa")


def confusion_cells(labels: NDArray[np.int64], predictions: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Index of each text's cell in a flattened confusion matrix of C rows (true) and C + 1 columns (predicted).

    Args:
        labels: [B] in 0 .. C-1.
        predictions: [..., B] in -1 .. C-1; -1 falls in the last column.
        num_classes: C.

    Returns:
        [..., B] in 0 .. C*(C+1)-1.
    """
    columns = np.where(predictions == UNANSWERED, num_classes, predictions)
    return labels * (num_classes + 1) + columns


def score_confusion(confusion: NDArray, metric: Metric) -> NDArray[np.float64]:
    """One score for each confusion matrix.

    F1 of a class is 2 TP / (texts of the class + texts predicted as the class). Macro is the plain mean over the
    classes that occur, as a label or as an answer, as in scikit-learn; weighted the mean by support. Of ordered
    classes, over answered texts: the mean distance (``"mae"``) of true and predicted class, the share of texts at
    most one class off (``"within_one"``), and quadratic weighted kappa (``"quadratic_kappa"``, Cohen 1968); 0 without
    any answer.

    Args:
        confusion: [..., C, C+1] counts, rows true, last column unanswered; each matrix counts at least one text.
        metric: one of :data:`Metric`.

    Returns:
        [...] in 0 .. 1; the distance in 0 .. C-1 classes, kappa in -1 .. 1.

    Raises:
        ConfigError: another metric.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    support = confusion.sum(axis=-1)
    n_texts = support.sum(axis=-1)
    if metric == "accuracy":
        return hits.sum(axis=-1) / n_texts
    answered = confusion[..., :-1]
    if metric in ORDERED:
        return _of_order(answered, metric)
    predicted = answered.sum(axis=-2)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    if metric == "f1_macro":
        return f1.sum(axis=-1) / (support + predicted > 0).sum(axis=-1)
    if metric == "f1_weighted":
        return (f1 * support).sum(axis=-1) / n_texts
    raise ConfigError(f"metric is {metric!r}; allowed are {', '.join(get_args(Metric))}")


def _of_order(answered: NDArray, metric: Metric) -> NDArray[np.float64]:
    """Scores of ordered classes. answered: [..., C, C] counts."""
    classes, total = np.arange(answered.shape[-1]), np.maximum(answered.sum(axis=(-2, -1)), 1)
    distance = np.abs(classes[:, None] - classes)
    if metric == "mae":
        return (answered * distance).sum(axis=(-2, -1)) / total
    if metric == "within_one":
        return (answered * (distance <= 1)).sum(axis=(-2, -1)) / total
    by_chance = answered.sum(axis=-1)[..., :, None] * answered.sum(axis=-2)[..., None, :] / total[..., None, None]
    observed, expected = ((counts * distance**2).sum(axis=(-2, -1)) for counts in (answered, by_chance))
    return 1 - np.divide(observed, expected, out=np.ones_like(expected), where=expected > 0)
