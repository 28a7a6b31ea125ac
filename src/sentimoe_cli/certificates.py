"""What `predict` says of a compressed model: whether its certificate holds here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from .messages import say

TINY = 1e-99  # a p below is rounded to 0


def certificate_for(
    model: str, max_disagreement: float | None, precision: str, long_texts: str
) -> dict[str, Any] | None:
    """The certificate under which a compressed folder answers; None for other models, or where all layers read.

    Says where the processor, the number format or the reading of long texts are not those that it was made with.
    """
    from sentimoe.inference import certificate_of, is_compressed, made_elsewhere

    folder = Path(model)
    if not is_compressed(folder):
        return None
    from sentimoe.model_folder import COMPRESSED

    from .models import beside_model

    about = beside_model(folder, COMPRESSED)
    if max_disagreement == 0:
        differ = about.get("all_layers")
        counted = f": {differ['differ']} of {differ['texts']} labels differed where it was made" if differ else ""
        say(f"note: all layers read every text; what rounding changes is not certified{counted}")
        return None
    for reason in made_elsewhere(about, precision):
        say(f"warning: the certificate of {model} {reason}; it may not hold here")
    if long_texts == "truncate":
        say(
            f"warning: the certificate of {model} is of texts that were read whole; it does not cover texts that are cut"
        )
    return certificate_of(about, max_disagreement)


def warn_of_drift(certificate: dict[str, Any], layers: np.ndarray) -> None:
    """Say it where texts leave after other layers than those of the certificate did. layers: of each text."""
    warn_of_layers(certificate, Counter(layers.tolist()))


def warn_of_layers(certificate: dict[str, Any], counts: Counter[int]) -> None:
    """The same, from the number of texts that left after each layer."""
    from sentimoe.compression import drift

    found = drift(certificate, counts)
    if found is None:
        nobody = "no text left early when the model was certified"
        none = nobody if len(certificate["shares"]) > 1 else "the model has no early exits"
        say(f"note: {none}, so it cannot tell whether the certificate covers texts of this kind")
    elif np.isnan(found.p):
        say(f"note: {found.texts} texts are too few to check whether the certificate covers texts of this kind")
    elif found.found:
        p = f"p = {found.p:.1g}" if found.p > TINY else f"p < {TINY:g}"
        say(
            f"warning: the certificate may not hold for these texts: they leave after other layers than the certified "
            f"ones, so they may be of another kind (total variation {found.total_variation:.2f}, {p})"
        )
