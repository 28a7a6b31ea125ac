"""What one call of an engine answers. All of it belongs to the call, so threads may share the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import PredictionError


@dataclass(frozen=True)
class Predictions:
    """Answers to B texts, in input order.

    probabilities: `[B, C]` float32; a row of NaN for a blank text, and for an answer that is no label.
    truncated: rows of the texts whose end was not read, counted from 0. off_label: what a language model said instead
    of a label, and how often. layers: `[B]`, how many layers read each text, where texts leave early; 0: blank.
    domains: `[B]`, of a model with added domains the place of the one that answered, 0: the model itself, -1: blank;
    and domain_scores: `[B]`, how sure the router is of that.
    """

    probabilities: np.ndarray
    truncated: list[int] = field(default_factory=list)
    off_label: Counter[str] = field(default_factory=Counter)
    layers: np.ndarray | None = None
    domains: np.ndarray | None = None
    domain_scores: np.ndarray | None = None


def joined(parts: Iterable[Predictions], num_labels: int) -> Predictions:
    """The chunks of a stream as one; of no texts, probabilities `[0, C]`."""
    probabilities, truncated, off_label = [np.empty((0, num_labels), dtype=np.float32)], [], Counter[str]()
    beside: dict[str, list[np.ndarray]] = {"layers": [], "domains": [], "domain_scores": []}
    for part in parts:
        probabilities.append(part.probabilities)
        truncated += part.truncated
        off_label += part.off_label
        for name, found in beside.items():
            found += [] if getattr(part, name) is None else [getattr(part, name)]
    told = {name: np.concatenate(found) for name, found in beside.items() if found}
    return Predictions(np.concatenate(probabilities), truncated, off_label, **told)


def answers(probabilities: np.ndarray, classes: Sequence[str | int]) -> list[dict[str, Any]]:
    """Probabilities `[B, C]` -> the best label and its probability for every row."""
    found = []
    for row in probabilities:
        best = int(row.argmax())  # the first NaN, where there is one
        blank = bool(np.isnan(row[best]))
        found.append({"label": None if blank else classes[best], "score": float(row[best])})
    return found


def check_finite(probabilities: np.ndarray, rows: Sequence[int]) -> None:
    """Raises PredictionError when one of the probabilities `[B, C]` of texts that have tokens is NaN or infinite.

    rows: the place of each of them in the input, from 0, for the message.
    """
    finite = np.isfinite(probabilities).all(axis=1)
    bad = sorted(row for row, good in zip(rows, finite, strict=True) if not good)
    if bad:
        shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise PredictionError(
            f"the model has no finite answer for {len(bad)} of the texts (rows {shown}, counted from 0): its weights, "
            "or what it computes from them, are not finite. Train it again, with a lower learning rate if this one "
            "diverged, or try precision='float32' and backend='torch'"
        )
