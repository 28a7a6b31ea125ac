"""Classes, the best one first, as the clients of Hugging Face read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def ranked(labels: Sequence[str], scores: np.ndarray, top: int | None = None) -> list[list[dict[str, Any]]]:
    """`[[{"label", "score"}, ...], ...]` of scores `[B, C]`. top: only so many of each text."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    sorted_scores = np.take_along_axis(scores, order, axis=1)
    return [
        [{"label": labels[index], "score": score} for index, score in zip(indices, row, strict=True)]
        for indices, row in zip(order.tolist(), sorted_scores.tolist(), strict=True)
    ]
