"""Causality: what happens when an expert may not be used and its tokens go to the next best ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from ..errors import ConfigError
from ..evaluation import predicted_labels
from ..inference import Engine
from ..moe import mask_experts
from ..upcycle import moe_layers


@contextmanager
def knocked_out(engine: Engine, closed: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Inside, the engine answers without these (MoE layer, expert) pairs. Raises ConfigError when too few are left."""
    layers = moe_layers(engine.model)
    masked: dict[Any, list[int]] = {}
    for layer, expert in closed:
        if not 0 <= layer < len(layers):
            raise ConfigError(f"there is no MoE layer {layer}; the model has {len(layers)}, numbered from 0")
        masked.setdefault(layers[layer], []).append(expert)
    with ExitStack() as stack:
        try:
            stack.enter_context(mask_experts(masked))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        yield


def can_close(engine: Engine) -> bool:
    """Whether one expert of a layer may be left out: more experts than a token needs."""
    return all(layer.experts.num_experts > layer.num_experts_per_tok for layer in moe_layers(engine.model))


def knock_out_each(
    engine: Engine, texts: Sequence[str], labels: np.ndarray, progress: Callable[[str], None] = lambda line: None
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The engine without each expert in turn.

    Returns probabilities `[N, E, B, C]` and, for each layer and expert: `change` of every class's F1 (points, negative:
    the class got worse), of weighted F1, and `flipped`, the share of texts whose label changed.
    """
    layers = moe_layers(engine.model)
    classes = list(range(engine.num_labels))
    whole = predicted_labels(engine.predict_proba(texts))
    scores = f1_score(labels, whole, labels=classes, average=None, zero_division=0)
    weighted = f1_score(labels, whole, labels=classes, average="weighted", zero_division=0)
    probabilities = np.empty((len(layers), layers[0].experts.num_experts, len(texts), engine.num_labels), np.float32)
    rows = []
    for layer in range(len(layers)):
        for expert in range(layers[0].experts.num_experts):
            with knocked_out(engine, [(layer, expert)]):
                probabilities[layer, expert] = engine.predict_proba(texts)
            found = predicted_labels(probabilities[layer, expert])
            without = f1_score(labels, found, labels=classes, average=None, zero_division=0)
            change = f1_score(labels, found, labels=classes, average="weighted", zero_division=0) - weighted
            rows.append(
                {
                    "layer": layer,
                    "expert": expert,
                    "change": (100 * (without - scores)).tolist(),
                    "weighted": 100 * float(change),
                    "flipped": float((found != whole).mean()),
                }
            )
            progress(f"without expert {expert} of layer {layer}")
    return probabilities, rows
