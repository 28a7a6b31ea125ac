"""Whether texts leave where those of the certificate left: if not, they may be of another kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chisquare

LEAST_TEXTS, LARGE, RARE = 200, 0.05, 0.001


@dataclass(frozen=True)
class Drift:
    """total_variation: half the sum of the differences of the shares, 0 .. 1. p: of a chi-squared test; NaN where there
    are too few texts (under 200)."""

    total_variation: float
    p: float
    texts: int

    @property
    def found(self) -> bool:
        """Whether the shares differ by more than chance and by enough to matter."""
        return self.total_variation > LARGE and self.p < RARE


def drift(shares: Mapping[str, float], layers: Sequence[int] | np.ndarray) -> Drift:
    """Compare the layers after which texts left with the shares of a certificate. layers: `[B]`, 0 for a blank text."""
    read = np.asarray(layers)
    read = read[read > 0]
    counts = np.array([(read == int(layer)).sum() for layer in shares], dtype=float)
    expected = np.array(list(shares.values()))
    if not len(read):
        return Drift(0.0, float("nan"), 0)
    distance = float(np.abs(counts / len(read) - expected).sum() / 2)
    if len(read) < LEAST_TEXTS:
        return Drift(distance, float("nan"), len(read))
    expected = np.maximum(expected, 0.5 / len(read))  # a place where nobody left may not make chance impossible
    return Drift(distance, float(chisquare(counts, expected / expected.sum() * len(read)).pvalue), len(read))
