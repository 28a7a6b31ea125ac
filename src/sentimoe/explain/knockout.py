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
from ..upcycle import layer_numbers, moe_layers


@contextmanager
def knocked_out(engine: Engine, closed: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Inside, the engine answers without these (layer, expert) pairs; layers are numbered as by `layer_numbers`.

    Raises ConfigError when too few experts are left, or the layer has none.
    """
    layers = dict(zip(layer_numbers(engine.model), moe_layers(engine.model), strict=True))
    masked: dict[Any, list[int]] = {}
    for layer, expert in closed:
        if layer not in layers:
            having = ", ".join(map(str, layers)) or "none"
            raise ConfigError(f"layer {layer} of this model has no experts; layers with experts: {having}")
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
    layers, count = layer_numbers(engine.model), moe_layers(engine.model)[0].experts.num_experts
    classes = list(range(engine.num_labels))
    whole = predicted_labels(engine.predict_proba(texts))
    scores = f1_score(labels, whole, labels=classes, average=None, zero_division=0)
    weighted = f1_score(labels, whole, labels=classes, average="weighted", zero_division=0)
    probabilities = np.empty((len(layers), count, len(texts), engine.num_labels), np.float32)
    rows = []
    for place, layer in enumerate(layers):
        for expert in range(count):
            with knocked_out(engine, [(layer, expert)]):
                probabilities[place, expert] = engine.predict_proba(texts)
            found = predicted_labels(probabilities[place, expert])
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
