"""Whether texts leave where those of the certificate left: if not, they may be of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency

LEAST_TEXTS, LARGE, RARE = 200, 0.05, 0.001


@dataclass(frozen=True)
class Drift:
    """total_variation: half the sum of the differences of the shares, 0 .. 1. p: of a chi-squared test that both are of
    one kind; NaN where there are too few texts (under 200)."""

    total_variation: float
    p: float
    texts: int

    @property
    def found(self) -> bool:
        """Whether the shares differ by more than chance and by enough to matter."""
        return self.total_variation > LARGE and self.p < RARE


def drift(certificate: Mapping[str, Any], left: Mapping[int, int]) -> Drift | None:
    """Compare the layers after which texts left with those of the texts that certified.

    certificate: its `shares` and how many `texts`. left: how many texts left after each layer; blank ones, after 0, do
    not count. None for a model without exits, or with exits that no text takes: all texts leave after the last layer,
    whatever they are.
    """
    shares = certificate["shares"]
    if list(shares.values())[-1] == 1:
        return None
    counts = np.array([left.get(int(layer), 0) for layer in shares], dtype=float)
    texts = sum(count for layer, count in left.items() if layer > 0)
    expected = np.array(list(shares.values()))
    distance = float(np.abs(counts / max(texts, 1) - expected).sum() / 2)
    if texts < LEAST_TEXTS:
        return Drift(distance, float("nan"), texts)
    both = np.stack([counts, (expected * certificate["texts"]).round()])
    both = both[:, both.sum(axis=0) > 0]
    p = chi2_contingency(both, correction=False).pvalue if both.shape[1] > 1 else 1.0
    return Drift(distance, float(p), texts)
