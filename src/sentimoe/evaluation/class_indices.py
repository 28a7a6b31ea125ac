"""Reading arrays of class indices: labels (0 .. C-1) and predictions (the same, or -1 for a text left unanswered)."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError

UNANSWERED: Final = -1
"""The predicted label of a text that got no answer (a blank text); it is never equal to a true label."""


def read_labels(labels: ArrayLike, num_classes: int | None = None) -> NDArray[np.int64]:
    """True labels as an array.

    Args:
        labels: [B] integers in 0 .. C-1, at least one.
        num_classes: C, or None where there is no upper limit to check.

    Returns:
        [B] int64.

    Raises:
        DataError: not one-dimensional, empty, not integers, or outside the range.
    """
    array = _read_integers("labels", labels, lowest=0, num_classes=num_classes)
    if array.ndim != 1:
        raise DataError(f"labels has shape {array.shape}; give one true label per text, shape [B]")
    return array


def read_predictions(
    name: str, predictions: ArrayLike, n_texts: int, num_classes: int | None = None
) -> NDArray[np.int64]:
    """Predicted labels of one or more runs (seeds) over the same texts as an array.

    Args:
        name: what to call them in an error.
        predictions: [B] or [S, B] integers in -1 .. C-1, where -1 is a text left unanswered.
        n_texts: B.
        num_classes: C, or None where there is no upper limit to check.

    Returns:
        [S, B] int64; S is 1 where [B] was given.

    Raises:
        DataError: another shape, not integers, or outside the range.
    """
    array = np.atleast_2d(_read_integers(name, predictions, lowest=UNANSWERED, num_classes=num_classes))
    if array.ndim != 2 or array.shape[1] != n_texts:
        raise DataError(
            f"{name} has shape {np.shape(predictions)}; give [{n_texts}] or [seeds, {n_texts}], "
            f"one prediction for each of the {n_texts} labels"
        )
    return array


def _read_integers(name: str, values: ArrayLike, lowest: int, num_classes: int | None) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size == 0:
        raise DataError(f"{name} is empty; at least one text is needed")
    if array.dtype.kind not in "iu":
        raise DataError(f"{name} has type {array.dtype}; give class indices as integers")
    low, high = int(array.min()), int(array.max())
    if low < lowest or (num_classes is not None and high >= num_classes):
        allowed = f"{lowest} or more" if num_classes is None else f"{lowest} to {num_classes - 1}"
        raise DataError(f"{name} goes from {low} to {high}; allowed is {allowed}")
    return array.astype(np.int64)
