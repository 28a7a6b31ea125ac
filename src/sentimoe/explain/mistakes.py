"""Errors, most confident first; confident disagreement may be the label's fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def mistakes(
    texts: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], count: int = 30
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One table of `label_suspects` and then `confident_errors`, a text once: half of the rows at most are suspects.

    Returns how many there are, `wrong` and `suspects` (`count`), and the rows, each with `suspect`: what the label
    probably is, or None.
    """
    errors = confident_errors(texts, labels, probabilities, names, len(texts))
    doubted = label_suspects(texts, labels, probabilities, names, count // 2)
    listed = {row["row"] for row in doubted["rows"]}
    rows = [row | {"suspect": row["suggested"]} for row in doubted["rows"]]
    rows += [row | {"suspect": None} for row in errors if row["row"] not in listed]
    return {"wrong": len(errors), "suspects": {"count": doubted["count"]}}, rows[:count]


def confident_errors(
    texts: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], count: int = 30
) -> list[dict[str, Any]]:
    """Wrong answers sorted by confidence: text, label, answer, its probability and that of the label."""
    answered = ~np.isnan(probabilities).any(axis=1)
    predicted = np.where(answered, np.nan_to_num(probabilities).argmax(axis=1), -1)
    wrong = np.flatnonzero(answered & (predicted != labels))
    order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:count]
    return [
        {
            "row": int(row),
            "text": texts[row],
            "label": names[labels[row]],
            "answer": names[predicted[row]],
            "probability": float(probabilities[row, predicted[row]]),
            "probability_of_label": float(probabilities[row, labels[row]]),
        }
        for row in order
    ]


def label_suspects(
    texts: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], count: int = 15
) -> dict[str, Any]:
    """Texts whose label is probably wrong, by confident learning: how many (`count`), and `rows`, most doubtful first.

    A text is a suspect when another class's probability reaches that class's threshold, the mean probability of the
    class among the texts that carry its label, and is the largest that does (Northcutt et al. 2021, "Confident
    Learning", equation 1). Where the model gives the label itself, it does not doubt it. Each row has `answer`, what
    the model says, and `suggested`, the class that passes its threshold.
    """
    answered = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    p, y = probabilities[answered], labels[answered]
    present = np.unique(y)
    thresholds = np.full(p.shape[1], np.inf)
    thresholds[present] = [p[y == label, label].mean() for label in present]
    able = np.where(p >= thresholds, p, -1.0)
    likely = able.argmax(axis=1)
    answer = p.argmax(axis=1)
    suspect = (able.max(axis=1) > 0) & (likely != y) & (answer != y)
    margin = p[np.arange(len(p)), likely] - p[np.arange(len(p)), y]
    rows = np.flatnonzero(suspect)
    rows = rows[np.argsort(-margin[rows], kind="stable")]
    shown = [
        {
            "row": int(answered[row]),
            "text": texts[answered[row]],
            "label": names[y[row]],
            "answer": names[answer[row]],
            "suggested": names[likely[row]],
            "probability": float(p[row, answer[row]]),
            "probability_of_label": float(p[row, y[row]]),
        }
        for row in rows[:count]
    ]
    return {"count": len(rows), "rows": shown}
