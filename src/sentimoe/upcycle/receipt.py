"""What a conversion measured: the proof that the model was the dense function when it started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MoEReceipt:
    """Measured in float32 and evaluation mode, before any noise.

    max_abs_logit_diff: largest |logit after - logit before| over the probe.
    noise_abs_logit_diff: the same after the symmetry-breaking noise; 0 without noise.
    probe: what was fed ("random ids" or "given texts"); texts and tokens count it.
    active_abs_logit_diff: of a split, the difference with the experts in use active (`max_abs_logit_diff`: with all).
    tolerance: the conversion raises above this difference; None: the start was not meant to be the dense function.
    """

    max_abs_logit_diff: float
    noise_abs_logit_diff: float
    probe: str
    texts: int
    tokens: int
    tolerance: float | None
    active_abs_logit_diff: float | None = None
