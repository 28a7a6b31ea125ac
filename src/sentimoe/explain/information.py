"""Does an expert know the label? Mutual information with a permutation baseline, so that chance is told apart."""

from __future__ import annotations

from typing import Any

import numpy as np


def mutual_information(joint: np.ndarray) -> np.ndarray:
    """Bits that experts and labels share: joint mass `[..., C, E]` -> `[...]`.

    `sum p(c, e) log2(p(c, e) / (p(c) p(e)))` (Cover & Thomas, Elements of Information Theory, 2.28).
    """
    joint = joint / joint.sum(axis=(-2, -1), keepdims=True)
    expected = joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)
    ratio = np.divide(joint, expected, out=np.ones_like(joint), where=joint > 0)
    return (joint * np.log2(ratio)).sum(axis=(-2, -1))


def information_with_baseline(
    by_text: np.ndarray, labels: np.ndarray, num_classes: int, permutations: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """For every layer the mutual information of expert and label, beside what shuffled labels give.

    by_text: mass `[B, N, E]`; labels `[B]`. Labels are shuffled among whole texts, because the tokens of one text are
    not independent: shuffling tokens would call any text-level difference significant. `p_value` is
    `(1 + #{shuffled >= observed}) / (1 + permutations)` (Phipson & Smyth 2010), `p_holm` the same corrected for the
    number of layers (Holm 1979).
    """
    rng = np.random.default_rng(seed)
    flat = by_text.reshape(len(by_text), -1)
    shape = (num_classes, *by_text.shape[1:])

    def information(order: np.ndarray) -> np.ndarray:
        marks = np.eye(num_classes)[labels[order]]
        joint = (marks.T @ flat).reshape(shape)
        return mutual_information(np.moveaxis(joint, 1, 0))

    observed = information(np.arange(len(labels)))
    shuffled = np.stack([information(rng.permutation(len(labels))) for _ in range(permutations)])
    p_values = (1 + (shuffled >= observed - 1e-12).sum(axis=0)) / (1 + permutations)
    rows = [
        {
            "layer": layer,
            "bits": float(observed[layer]),
            "shuffled_mean": float(shuffled[:, layer].mean()),
            "shuffled_95": float(np.quantile(shuffled[:, layer], 0.95)),
            "p_value": float(p_values[layer]),
        }
        for layer in range(by_text.shape[1])
    ]
    for row, corrected in zip(rows, holm(p_values), strict=True):
        row["p_holm"] = float(corrected)
    return rows


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values `[M]` corrected for M tests (Holm 1979)."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    steps = p_values[order] * (len(p_values) - np.arange(len(p_values)))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected


def class_preferences(
    by_text: np.ndarray, labels: np.ndarray, num_classes: int, permutations: int = 1000, seed: int = 0
) -> np.ndarray:
    """P-values `[C, N, E]`: does an expert read more of a class than it does of shuffled labels?

    Corrected for all cells at once: a cell's excess over its shuffled mean, in shuffled standard deviations, is
    compared with the largest one anywhere in each shuffle (max-T, Westfall & Young 1993).
    """
    rng = np.random.default_rng(seed)
    flat = by_text.reshape(len(by_text), -1).astype(np.float64)
    lengths = by_text[:, 0].sum(axis=-1, dtype=np.float64)

    def share(order: np.ndarray) -> np.ndarray:
        marks = np.eye(num_classes)[labels[order]]
        return (marks.T @ flat) / np.maximum(marks.T @ lengths, 1e-12)[:, None]

    shuffled = np.stack([share(rng.permutation(len(labels))) for _ in range(permutations)])
    # where all texts are read alike, what is left is rounding: no difference
    mean, spread = shuffled.mean(axis=0), np.maximum(shuffled.std(axis=0), 1e-6)
    largest = ((shuffled - mean) / spread).reshape(permutations, -1).max(axis=1)
    observed = (share(np.arange(len(labels))) - mean) / spread
    p_values = (1 + (largest[:, None, None] >= observed).sum(axis=0)) / (1 + permutations)
    return p_values.reshape(num_classes, *by_text.shape[1:])
