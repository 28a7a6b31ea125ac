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

Metric = Literal["accuracy", "f1_weighted", "f1_macro", "mae"]
SHARES: tuple[Metric, ...] = ("accuracy", "f1_weighted", "f1_macro")  # of classes in any order


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

    F1 of a class is 2 TP / (texts of the class + texts predicted as the class), and 0 where both are 0, as in
    scikit-learn with ``zero_division=0``. Macro is the plain mean over all C classes, weighted the mean by support. The
    mean distance (``"mae"``) is that of true and predicted class in their order, over answered texts; 0 without any.

    Args:
        confusion: [..., C, C+1] counts, rows true, last column unanswered; each matrix counts at least one text.
        metric: ``"accuracy"``, ``"f1_weighted"``, ``"f1_macro"`` or ``"mae"``.

    Returns:
        [...] in 0 .. 1; the distance in 0 .. C-1 classes.

    Raises:
        ConfigError: another metric.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    support = confusion.sum(axis=-1)
    n_texts = support.sum(axis=-1)
    if metric == "accuracy":
        return hits.sum(axis=-1) / n_texts
    if metric == "mae":
        answered, classes = confusion[..., :-1], np.arange(confusion.shape[-2])
        distance = np.abs(classes[:, None] - classes)
        return (answered * distance).sum(axis=(-2, -1)) / np.maximum(answered.sum(axis=(-2, -1)), 1)
    predicted = confusion[..., :-1].sum(axis=-2)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    if metric == "f1_macro":
        return f1.mean(axis=-1)
    if metric == "f1_weighted":
        return (f1 * support).sum(axis=-1) / n_texts
    raise ConfigError(f"metric is {metric!r}; allowed are {', '.join(get_args(Metric))}")
