"""What further texts may be promised: how many of those that certified got another answer, and an exact bound.

The texts that certify were looked at by nothing before, and settings are tested on them from the safest to the fastest
up to the first that fails (`evaluation.last_within`).

Sources: Angelopoulos et al. 2021, "Learn then Test"; Schuster et al. 2022, "Confident Adaptive Language Modeling";
Jazbec et al. 2024, "Fast yet Safe: Early-Exiting with Risk Control".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..evaluation import least_trials, upper_bound


@dataclass(frozen=True)
class Certificate:
    """What is promised of one tolerance.

    tolerance: the share of further texts of the same kind whose label may be another than the original's. thresholds:
    from which confidence on texts leave after each cut. differ, texts: how many labels are others, of the texts that
    certify. upper_bound: of the rate, one-sided, exact, at 95%. mean_layers: that read a text. shares: of the texts, by
    the layer after which they leave.
    """

    tolerance: float
    thresholds: tuple[float, ...]
    differ: int
    texts: int
    upper_bound: float
    mean_layers: float
    shares: dict[str, float]


def needed_texts(tolerance: float, share: float = 0.6) -> int:
    """How many texts it takes where the rate is that share of the tolerance: about 1,800 for 0.01."""
    trials = least_trials(tolerance)
    while upper_bound(math.ceil(share * tolerance * trials), trials) > tolerance:
        trials = math.ceil(1.02 * trials)
    return trials
