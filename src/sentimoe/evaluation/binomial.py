"""Exact 95% bounds of a probability, and the search for the last of several settings that keeps a promise.

Settings are tested in an order that was fixed without the texts, up to the first that fails (fixed-sequence testing).
The whole search then promises too much with probability 5% at most, however many settings there are.

Sources: Clopper & Pearson 1934; Angelopoulos et al. 2021, "Learn then Test", section 3.2.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable

from scipy.stats import beta

CONFIDENCE = 0.95


def lower_bound(events: int, trials: int) -> float:
    """The exact one-sided 95% lower bound of a probability."""
    return float(beta.ppf(1 - CONFIDENCE, events, trials - events + 1)) if events else 0.0


def upper_bound(events: int, trials: int) -> float:
    """The exact one-sided 95% upper bound of a probability."""
    return 1 - lower_bound(trials - events, trials)


def least_trials(rate: float) -> int:
    """How many trials without one event it takes to show that its rate is at most this: 299 for 0.01."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-rate))


def most_events(rate: float, trials: int) -> int:
    """The largest number of events that shows that their rate is at most this; -1 where even none does not."""
    return bisect_right(range(trials + 1), rate, key=lambda events: upper_bound(events, trials)) - 1


def needed_trials(rate: float, share: float) -> int:
    """How many trials show that a rate is at most this where it is that share of it: about 1,800 for 0.01 and 0.6."""
    trials = least_trials(rate)
    while upper_bound(math.ceil(share * rate * trials), trials) > rate:
        trials = math.ceil(1.02 * trials)
    return trials


def last_within(counts: Iterable[tuple[int, int]], rate: float) -> int | None:
    """The place of the last setting whose upper bound, and that of all before it, is within the rate.

    counts: events and trials of each setting, in their order; none is asked for after the first that fails. None where
    the first fails.
    """
    last = None
    for place, (events, trials) in enumerate(counts):
        if upper_bound(events, trials) > rate:
            break
        last = place
    return last
