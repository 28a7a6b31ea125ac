"""What further texts may be promised: an exact bound, and a search that errs in at most 5% of all cases.

The texts that certify were looked at by nothing before. Settings are tested in an order that was fixed without them,
from the safest to the fastest, up to the first whose bound exceeds the tolerance (fixed-sequence testing). The whole
search then promises too much with probability 5% at most, however many settings there are.

Sources: Clopper & Pearson 1934; Angelopoulos et al. 2021, "Learn then Test", section 3.2; Schuster et al. 2022,
"Confident Adaptive Language Modeling"; Jazbec et al. 2024, "Fast yet Safe: Early-Exiting with Risk Control".
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import beta

CONFIDENCE = 0.95


def upper_bound(events: int, trials: int) -> float:
    """The exact one-sided 95% upper bound of a probability."""
    return float(beta.ppf(CONFIDENCE, events + 1, trials - events)) if events < trials else 1.0


def least_texts(tolerance: float) -> int:
    """How many texts without one other answer it takes to promise this tolerance: 299 for 0.01."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - tolerance))


def needed_texts(tolerance: float, share: float = 0.6) -> int:
    """How many it takes where the rate is that share of the tolerance: about 1,800 for 0.01."""
    trials = least_texts(tolerance)
    while upper_bound(math.ceil(share * tolerance * trials), trials) > tolerance:
        trials = math.ceil(1.02 * trials)
    return trials


def last_certified(differs: np.ndarray, tolerance: float) -> int | None:
    """The last setting whose bound, and that of all before it, is within the tolerance; None where the first fails.

    differs: `[S, B]` bool, from the safest setting to the fastest: whether a text's answer is another one.
    """
    last = None
    for index, row in enumerate(differs):
        if upper_bound(int(row.sum()), len(row)) > tolerance:
            break
        last = index
    return last
