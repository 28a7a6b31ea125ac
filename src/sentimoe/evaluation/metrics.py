"""How good one set of predictions is: right or wrong, and how well its confidence can be trusted.

Legend: B texts, C classes, M bins.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from ..errors import ConfigError, DataError
from .class_indices import UNANSWERED, read_labels


class ReliabilityBin(TypedDict):
    """Answered texts whose confidence lies in (low, high]; accuracy and confidence are None where there are none."""

    low: float
    high: float
    count: int
    accuracy: float | None
    confidence: float | None


def classification_metrics(labels: ArrayLike, probabilities: ArrayLike, label_names: Sequence[str]) -> dict[str, Any]:
    """Every score of one run, ready for JSON.

    A row of NaN is a text left unanswered (a blank text). It is an error: it lowers accuracy, and the recall and F1 of
    its true class, but is no false positive of any class. Confidence exists only where there is an answer, so ``ece``
    and ``nll`` are over the answered texts, and None where there are none.

    Args:
        labels: [B] int, true classes in 0 .. C-1.
        probabilities: [B, C] float; each row is non-negative and sums to 1, or is all NaN.
        label_names: C distinct names, by class index.

    Returns:
        - ``n``: B, and ``n_unanswered``: how many of them have a row of NaN.
        - ``accuracy``: 0 .. 1.
        - ``precision_``, ``recall_``, ``f1_`` + ``weighted`` (mean by support) or ``macro`` (plain mean over the
          classes that occur, as a label or as an answer): 0 .. 1; a score without a denominator is 0.
        - ``ece``: expected calibration error, 0 .. 1, 15 bins; see :func:`expected_calibration_error`.
        - ``nll``: mean negative log-likelihood of the true class, nats. A probability of 0 is read as the smallest
          positive float64 (708 nats), so that it stays finite.
        - ``confusion_matrix``: [C][C] counts, rows true, columns predicted; unanswered texts are in no cell.
        - ``per_class``: name -> ``precision``, ``recall``, ``f1``, ``support`` (texts of that true class).

    Raises:
        DataError: shapes that do not fit, labels outside 0 .. C-1, rows that are no probabilities, or repeated names.
    """
    given = _read_probabilities(probabilities)
    num_classes = given.shape[1]
    if len(label_names) != num_classes or len(set(label_names)) != num_classes:
        raise DataError(f"label_names is {list(label_names)}; give {num_classes} distinct names, one per column")
    true = _read_labels_of(labels, given)
    predicted = predicted_labels(given)
    answered = predicted != UNANSWERED
    classes = np.arange(num_classes)

    averages = {}
    occurring = np.union1d(true, predicted[answered])
    for average in ("weighted", "macro"):
        scores = precision_recall_fscore_support(true, predicted, labels=occurring, average=average, zero_division=0)
        for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True):
            averages[f"{name}_{average}"] = float(score)

    by_class = precision_recall_fscore_support(true, predicted, labels=classes, zero_division=0)
    return {
        "n": len(true),
        "n_unanswered": int(np.sum(~answered)),
        "accuracy": float(accuracy_score(true, predicted)),
        **averages,
        "ece": expected_calibration_error(reliability_bins(true, given)),
        "nll": _negative_log_likelihood(true[answered], given[answered]),
        "confusion_matrix": confusion_matrix(true, predicted, labels=classes).tolist(),
        "per_class": {
            name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
            for name, precision, recall, f1, support in zip(label_names, *by_class, strict=True)
        },
    }


def most_frequent(labels: ArrayLike, label_names: Sequence[str]) -> dict[str, Any]:
    """What the most frequent label would score as the answer to every text: ``label``, ``accuracy``, ``f1_weighted``
    and ``f1_macro``, the least that a model must beat.

    Args:
        labels: [B] int, true classes in 0 .. C-1.
        label_names: C distinct names, by class index.

    Raises:
        DataError: labels outside 0 .. C-1.
    """
    true = read_labels(labels, len(label_names))
    chosen = int(np.bincount(true).argmax())
    always = np.zeros((len(true), len(label_names)))
    always[:, chosen] = 1
    scores = classification_metrics(true, always, label_names)
    return {"label": label_names[chosen]} | {name: scores[name] for name in ("accuracy", "f1_weighted", "f1_macro")}


def predicted_labels(probabilities: ArrayLike) -> NDArray[np.int64]:
    """The likeliest class of each text, the lower index on a tie.

    Args:
        probabilities: [B, C] float; each row is non-negative and sums to 1, or is all NaN.

    Returns:
        [B] int64 in 0 .. C-1, and -1 for a row of NaN.

    Raises:
        DataError: rows that are no probabilities.
    """
    given = _read_probabilities(probabilities)
    return np.where(np.isnan(given[:, 0]), UNANSWERED, given.argmax(axis=1))


def reliability_bins(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = 15) -> list[ReliabilityBin]:
    """Accuracy against confidence, in equal-width bins ((m-1)/M, m/M] of the top-1 probability.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.

    Args:
        labels: [B] int, true classes in 0 .. C-1.
        probabilities: [B, C] float; rows of NaN are left out.
        n_bins: M, at least 1.

    Returns:
        M bins, by rising confidence.

    Raises:
        ConfigError: fewer than 1 bin.
        DataError: as :func:`classification_metrics`.
    """
    if n_bins < 1:
        raise ConfigError(f"n_bins is {n_bins}; allowed is 1 or more")
    given = _read_probabilities(probabilities)
    true = _read_labels_of(labels, given)
    predicted = predicted_labels(given)
    answered = predicted != UNANSWERED
    right = (predicted == true)[answered]
    confidence = given[answered].max(axis=1)

    edges = np.linspace(0, 1, n_bins + 1)
    bin_of_text = np.digitize(confidence, edges[1:-1], right=True)
    bins: list[ReliabilityBin] = []
    for index in range(n_bins):
        inside = bin_of_text == index
        filled = bool(inside.any())
        bins.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                count=int(inside.sum()),
                accuracy=float(right[inside].mean()) if filled else None,
                confidence=float(confidence[inside].mean()) if filled else None,
            )
        )
    return bins


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float | None:
    """Mean gap between accuracy and confidence over the bins, weighted by their texts.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    Args:
        bins: from :func:`reliability_bins`.

    Returns:
        0 (calibrated) .. 1, or None where all bins are empty.
    """
    total = sum(each["count"] for each in bins)
    if total == 0:
        return None
    gaps = (
        each["count"] * abs(each["accuracy"] - each["confidence"])
        for each in bins
        if each["accuracy"] is not None and each["confidence"] is not None
    )
    return sum(gaps) / total


def _negative_log_likelihood(true: NDArray[np.int64], given: NDArray[np.float64]) -> float | None:
    if len(true) == 0:
        return None
    likelihood = given[np.arange(len(true)), true]
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())


def _read_labels_of(labels: ArrayLike, given: NDArray[np.float64]) -> NDArray[np.int64]:
    true = read_labels(labels, given.shape[1])
    if len(true) != len(given):
        raise DataError(f"there are {len(true)} labels and {len(given)} rows of probabilities; give one row per label")
    return true


def _read_probabilities(probabilities: ArrayLike) -> NDArray[np.float64]:
    given = np.asarray(probabilities, dtype=np.float64)
    if given.ndim != 2 or given.shape[0] < 1 or given.shape[1] < 2:
        raise DataError(f"probabilities has shape {given.shape}; give [texts, classes], at least 1 text and 2 classes")
    unanswered = np.isnan(given).all(axis=1)
    # Loose enough for float16 and bfloat16 softmax, far too tight for logits.
    proper = (given >= 0).all(axis=1) & np.isclose(given.sum(axis=1), 1, rtol=0, atol=2e-2)
    wrong = np.flatnonzero(~(proper | unanswered))
    if len(wrong):
        raise DataError(
            f"row {wrong[0]} of probabilities is {given[wrong[0]].tolist()} ({len(wrong)} such rows); a row must be "
            "non-negative and sum to 1 (apply softmax to logits), or be all NaN for a text left unanswered"
        )
    return given
