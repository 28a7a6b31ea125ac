"""What further texts may be promised: how many of those that certified got another answer, and an exact bound.

The texts that certify were looked at by nothing before, and settings are tested on them from the safest to the fastest
up to the first that fails (`evaluation.last_within`).

Sources: Angelopoulos et al. 2021, "Learn then Test"; Schuster et al. 2022, "Confident Adaptive Language Modeling";
Jazbec et al. 2024, "Fast yet Safe: Early-Exiting with Risk Control".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Certificate:
    """What is promised of one tolerance.

    tolerance: the share of further texts of the same kind whose label may be another than the original's. thresholds:
    from which confidence on texts leave after each cut. differ, texts: how many labels are others, of the texts that
    certify. upper_bound: of the rate, one-sided, exact, at 95%. mean_layers: that read a text. shares: of the texts, by
    how many layers read them. by_class: the same counts for each label of the original. doubtful: for the half of the
    texts that the original is least sure of.
    """

    tolerance: float
    thresholds: tuple[float, ...]
    differ: int
    texts: int
    upper_bound: float
    mean_layers: float
    shares: dict[str, float]
    by_class: dict[str, dict[str, int]]
    doubtful: dict[str, int]
