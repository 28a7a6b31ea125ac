"""Logistic regression on the embeddings of a backbone that is not trained: a classifier in seconds.

Legend: B texts, C classes, D hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from ..data import clean_text
from ..data.splitting import normalise
from ..inference import position_limit
from ..upcycle import load_classifier
from .embeddings import embeddings
from .prepare import load_tokenizer

FOLDS = 5
STRENGTH = 1.0
TOKENS = 256
AT_ONCE = 512  # texts


def frozen_embeddings(
    texts: Sequence[str], model: str, progress: Callable[[int], None] | None = None, **loading: Any
) -> NDArray[np.float32]:
    """The mean hidden state of each text, of length 1, [B, D]. At most 256 tokens of a text are read.

    model: a short name, a folder or a hub id. progress: called with how many texts were read now. loading: of
    `load_classifier`. Raises what that raises.
    """
    loaded = load_classifier(model, ["0", "1"], **loading).eval()  # its head is fresh, and not read
    max_length = min(TOKENS, position_limit(loaded) or TOKENS)
    trusted = loading.get("trust_remote_code", False)
    tokenizer = load_tokenizer(model, loaded, max_length, trust_remote_code=trusted)
    encoded = tokenizer([clean_text(text) for text in texts], truncation=True, max_length=max_length)
    names = [name for name in tokenizer.model_input_names if name in encoded]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*(encoded[name] for name in names), strict=True)]
    parts = []
    for start in range(0, len(rows), AT_ONCE):
        parts.append(embeddings(loaded, tokenizer, rows[start : start + AT_ONCE]))
        if progress is not None:
            progress(len(parts[-1]))
    found = np.concatenate(parts)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def out_of_fold(features: NDArray[np.floating], labels: NDArray[np.int64], texts: Sequence[str], seed: int) -> NDArray:
    """What logistic regression says of each text when it was fitted on other texts, [B, C]; equal texts stay together.

    features: [B, D]. labels: [B] in 0 .. C-1, each class with five different texts or more.
    """
    found = np.zeros((len(labels), int(labels.max()) + 1))
    groups = [normalise(text) for text in texts]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fitted, held_out in folds.split(features, labels, groups):
        regression = LogisticRegression(C=STRENGTH, max_iter=1000).fit(features[fitted], labels[fitted])
        found[np.ix_(held_out, regression.classes_)] = regression.predict_proba(features[held_out])
    return found
