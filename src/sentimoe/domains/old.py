"""What a model answers already, as its router sees it: vectors that were kept, or texts that are read for it.

Legend: D hidden, V vectors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from ..data import load_dataset
from ..errors import ConfigError, SentiMoEError
from ..inference import BASE
from ..inference.domain_folder import kept_vectors
from .receipt import OldTexts
from .states import Trunk

KEPT = 2000  # vectors


def old_vectors(
    folder: Path, trunk: Trunk, old_texts: OldTexts | None, seed: int
) -> tuple[dict[str, np.ndarray], OldTexts | None, str]:
    """The vectors of the base and of each domain, what is left of old texts to measure with, and where these are from.

    Raises ConfigError where neither the training texts of the model nor old texts are at hand.
    """
    kept = {each.of: each.vectors for each in kept_vectors(folder)}
    if BASE in kept:
        return kept, old_texts, ""
    texts, why = _training_texts(folder)
    if texts:
        note = f"the router learns what is old from {min(len(texts), KEPT)} training texts of the model"
    elif old_texts is None:
        raise ConfigError(f"what the model was trained on is not at hand ({why}); give --old-texts, of the same kind")
    else:
        order = np.random.default_rng(seed).permutation(len(old_texts.texts)).tolist()
        half = min(KEPT, len(order) // 2)
        texts, rest = [old_texts.texts[row] for row in order[:half]], order[half:]
        labels = None if old_texts.labels is None else [old_texts.labels[row] for row in rest]
        old_texts = OldTexts([old_texts.texts[row] for row in rest], labels)
        note = (
            f"the training texts of the model are not at hand ({why}): the router learns what is old from {half} of "
            f"the old texts, and the other {len(rest)} measure what moves"
        )
    order = np.random.default_rng(seed).permutation(len(texts))[:KEPT].tolist()
    return {BASE: trunk.read([texts[row] for row in order]).pooled} | kept, old_texts, note


def _training_texts(folder: Path) -> tuple[list[str], str]:
    """Those that the config of a run names, if they are there; else why not."""
    config = folder / "config.yaml"
    if not config.exists():
        return [], "it has no config.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    try:
        columns = {key: settings.get(key) for key in ("text_column", "label_column")}
        return load_dataset(settings["data"], **columns).splits["train"].texts, ""
    except (SentiMoEError, OSError) as error:
        return [], str(error).split(";")[0]


def some(vectors: np.ndarray, seed: int) -> np.ndarray:
    """At most KEPT of them, at random."""
    return vectors[np.random.default_rng(seed).permutation(len(vectors))[:KEPT]]
