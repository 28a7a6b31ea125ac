"""How many of the given texts a model was trained on, whatever the file is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentimoe.data import SeenTexts

FEW_SEEN = 0.01  # share of the texts


def seen_among(seen: SeenTexts | None, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which of B texts a model has seen, [B]; none where it is not known."""
    return np.zeros(len(texts), dtype=bool) if seen is None else seen.mask(texts)


def seen_warning(name: str, seen: NDArray[np.bool_], so: str = "so these scores are not those of new texts") -> str:
    """What a reader of the results must know. so: what follows, unless they are few."""
    follows = "too few to change what is shown" if seen.mean() <= FEW_SEEN else so
    return f"{name} has seen {int(seen.sum())} of the {len(seen)} texts in training, {follows}"
