"""Two models on the same texts: which is better, whether that is chance, and where they part."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import DataError
from .class_indices import read_labels
from .confusion import SHARES
from .metrics import predicted_labels
from .paired import mcnemar, paired_bootstrap


def compare_predictions(
    labels: ArrayLike,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    label_names: Sequence[str],
    examples: int = 10,
    ordered: bool = False,
) -> dict[str, Any]:
    """How the answers of two models differ, ready for JSON.

    Args:
        labels: [B] int, true classes in 0 .. C-1.
        probabilities_a, probabilities_b: [B, C] float; a row of NaN is unanswered, and an error.
        label_names: C names, by class index.
        examples: how many rows of each kind to name.
        ordered: whether the classes have an order, that of their indices.

    Returns:
        - ``n``, and ``agreement``: the share of texts that both give the same label.
        - ``accuracy``, ``f1_weighted``, ``f1_macro``: of :func:`paired_bootstrap`, difference a - b with its interval;
          where they are ordered also ``mae``, the mean distance in classes, over the ``n`` texts that both answer.
        - ``mcnemar``: of :func:`mcnemar`.
        - ``flips``: rows ``true``, ``a``, ``b`` (names, None: unanswered) and ``count`` of texts on which they part,
          most first.
        - ``only_a``, ``only_b``: numbers of texts, from 0, that only one gets right, those first that it is surest of.

    Raises:
        DataError: shapes that do not fit, or rows that are no probabilities.
    """
    a, b = np.asarray(probabilities_a, dtype=np.float64), np.asarray(probabilities_b, dtype=np.float64)
    if a.shape != b.shape:
        raise DataError(f"the models have answers of shape {a.shape} and {b.shape}; give the same texts and labels")
    true = read_labels(labels, len(label_names))
    answers_a, answers_b = predicted_labels(a), predicted_labels(b)
    scores: dict[str, Any] = {
        metric: paired_bootstrap(true, answers_a, answers_b, metric, num_classes=len(label_names)) for metric in SHARES
    }
    both = (answers_a >= 0) & (answers_b >= 0)  # no answer has no distance
    if ordered and both.any():
        of_both = (true[both], answers_a[both], answers_b[both])
        scores["mae"] = paired_bootstrap(*of_both, "mae", num_classes=len(label_names)) | {"n": int(both.sum())}
    parted = np.flatnonzero(answers_a != answers_b)
    names = [*label_names, None]  # -1: unanswered
    flips = Counter((int(true[row]), int(answers_a[row]), int(answers_b[row])) for row in parted)

    def surest(right: np.ndarray, wrong: np.ndarray, answers: np.ndarray) -> list[int]:
        rows = np.flatnonzero((right == true) & (wrong != true))
        return rows[np.argsort(-answers[rows].max(axis=1), kind="stable")][:examples].tolist()

    return {
        "n": len(true),
        "agreement": 1 - len(parted) / len(true),
        **scores,
        "mcnemar": mcnemar(true, answers_a, answers_b),
        "flips": [
            {"true": names[label], "a": names[one], "b": names[other], "count": count}
            for (label, one, other), count in flips.most_common()
        ],
        "only_a": surest(answers_a, answers_b, a),
        "only_b": surest(answers_b, answers_a, b),
    }
