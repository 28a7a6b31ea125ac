"""What a model answers already, as its router sees it: vectors that were kept, or texts that are read for it.

Legend: D hidden, V vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from ..data import SeenTexts
from ..errors import ConfigError, SentiMoEError
from ..inference import BASE, domain_names
from ..inference.domain_folder import kept_vectors
from ..training import TrainConfig, dataset_of
from .receipt import OldTexts
from .states import Trunk

KEPT = 2000  # vectors


@dataclass(frozen=True)
class Old:
    """What a new domain must leave alone.

    vectors: of the base and of each domain, `[V, D]`. training_texts: some that the model was trained on, where they
    are at hand. texts: those of the user that are left to measure with. note: where the vectors of the base are from,
    if they were not kept.
    """

    vectors: dict[str, np.ndarray]
    training_texts: list[str]
    texts: OldTexts | None
    note: str = ""


def what_is_old(folder: Path, trunk: Trunk, old_texts: OldTexts | None, seed: int) -> Old:
    """What a model folder and its user know of old texts.

    Raises ConfigError where neither vectors nor the training texts of the model nor old texts are at hand.
    """
    # without a domain, what lies there is left over: of another number of layers, or of other weights
    kept = {each.of: each.vectors for each in kept_vectors(folder)} if domain_names(folder) else {}
    training, why = _training_texts(folder)
    training = [training[row] for row in np.random.default_rng(seed).permutation(len(training))[:KEPT]]
    if BASE in kept:
        return Old(kept, training, old_texts)
    if training:
        note = f"the router learns what is old from {len(training)} training texts of the model"
        return Old({BASE: trunk.read(training).pooled} | kept, training, old_texts, note)
    if old_texts is None:
        raise ConfigError(f"what the model was trained on is not at hand ({why}); give --old-texts, of the same kind")
    order = np.random.default_rng(seed).permutation(len(old_texts.texts)).tolist()
    half = min(KEPT, len(order) // 2)
    learned, rest = [old_texts.texts[row] for row in order[:half]], order[half:]
    labels = None if old_texts.labels is None else [old_texts.labels[row] for row in rest]
    note = (
        f"the training texts of the model are not at hand ({why}): the router learns what is old from {half} of "
        f"the old texts, and the other {len(rest)} measure what moves"
    )
    left = OldTexts([old_texts.texts[row] for row in rest], labels)
    return Old({BASE: trunk.read(learned).pooled} | kept, [], left, note)


def _training_texts(folder: Path) -> tuple[list[str], str]:
    """Those that the config of a run names, if they are there; else why not.

    A file may have changed since: where the folder keeps hashes of its training texts, only these count.
    """
    config = folder / "config.yaml"
    if not config.exists():
        return [], "it has no config.yaml"
    try:
        settings = TrainConfig.from_dict(yaml.safe_load(config.read_text(encoding="utf-8")))
        texts = dataset_of(settings).splits["train"].texts
    except (SentiMoEError, OSError) as error:
        return [], str(error).split(";")[0]
    seen = SeenTexts.load(folder)
    if seen is not None:
        texts = [text for text, known in zip(texts, seen.mask(texts), strict=True) if known]
    return texts, f"{settings.data} has other texts now"


def some(vectors: np.ndarray, seed: int) -> np.ndarray:
    """At most KEPT of them, at random."""
    return vectors[np.random.default_rng(seed).permutation(len(vectors))[:KEPT]]
