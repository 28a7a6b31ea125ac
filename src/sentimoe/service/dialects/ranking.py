"""Classes, the best one first, as the clients of Hugging Face read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def ranked(labels: Sequence[str], scores: np.ndarray, top: int | None = None) -> list[dict[str, Any]]:
    """`[{"label", "score"}, ...]` of scores `[C]`. top: only so many."""
    order = np.argsort(-scores, kind="stable")[:top].tolist()
    return [{"label": labels[index], "score": float(scores[index])} for index in order]
