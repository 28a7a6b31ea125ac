"""Texts that stand more than once, within train or across splits: counted and told, never removed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .dataset import Split
from .splitting import normalise


def repeats(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which of B texts repeat an earlier one, [B]; they are compared after :func:`normalise`."""
    return pd.Series([normalise(text) for text in texts], dtype=object).duplicated().to_numpy()


def repeat_warnings(splits: dict[str, Split]) -> tuple[str, ...]:
    """One sentence for each kind of repetition there is; texts are compared after :func:`normalise`."""
    train = [normalise(text) for text in splits["train"].texts]
    known = set(train)
    warnings = []
    if repeated := len(train) - len(known):
        warnings.append(f"{repeated} of {len(train)} train texts repeat an earlier one, case and whitespace aside.")
    for name, split in splits.items():
        if name != "train" and (shared := sum(normalise(text) in known for text in split.texts)):
            warnings.append(
                f"{shared} of {len(split)} {name} texts stand word for word in train, case and whitespace aside."
            )
    return tuple(warnings)
