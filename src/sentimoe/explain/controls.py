"""Are the experts needed? The model beside one whose experts are all the same, and one that routes without reason."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.metrics import log_loss

from ..errors import DataError
from ..evaluation import paired_bootstrap, predicted_labels
from ..inference import Engine
from ..moe import Experts, MoE, SplitMoE
from ..upcycle import moe_layers

Change = Callable[[MoE, int], None]  # a layer and its place


@torch.no_grad()
def mean_expert(layer: MoE, place: int) -> None:
    """Every expert becomes the mean of all, so that it does not matter which one reads a token."""
    for parameter in layer.experts.parameters():
        parameter.copy_(parameter.mean(dim=0, keepdim=True).expand_as(parameter))


@torch.no_grad()
def other_router(layer: MoE, place: int, draw: int = 0) -> None:
    """Weights drawn anew for each layer, with the deviation of the trained ones: tokens go somewhere, for no reason."""
    weight = layer.router.weight
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1000 * draw + place))
    weight.copy_(drawn.to(weight) * weight.float().std())
    if layer.router.bias is not None:
        layer.router.bias.zero_()


def controls(
    engine: Engine, texts: Sequence[str], labels: Sequence[int], draws: int = 3, dense: Engine | None = None
) -> list[dict[str, Any]]:
    """The engine beside copies of its model in which one thing is taken away.

    Returns rows: the model as it is, the dense model where it is given, the model with another router (mean of
    `draws`), and with the mean expert (not of a divided FFN, whose experts are different neurons, nor under LoRA that
    is not merged). A row has `name`, `f1_weighted`,
    `log_loss` and `flipped`, the share of texts whose label is another than the model's, and `test`, the paired
    bootstrap over texts of its weighted F1 less the model's (None: the model itself). Texts without an answer are left
    out.

    Raises DataError when no text has an answer.
    """
    layers = moe_layers(engine.model)
    answers = engine.predict_proba(texts)
    able = ~np.isnan(answers).any(axis=1)
    if not able.any():
        raise DataError(f"none of the {len(texts)} texts has an answer; give texts with at least one token")
    known, whole = np.asarray(labels)[able], answers[able]

    def row(name: str, *engines: Engine) -> dict[str, Any]:
        others = [_answers(each, texts, engine.label_names)[able] for each in engines] or [whole]
        found, before = np.stack([predicted_labels(each) for each in others]), predicted_labels(whole)
        exact = [each.astype(np.float64) / each.sum(axis=1, keepdims=True, dtype=np.float64) for each in others]
        classes = whole.shape[1]
        test = paired_bootstrap(known, found, before, num_classes=classes)
        return {
            "name": name,
            "f1_weighted": test["mean_a"],
            "log_loss": float(np.mean([log_loss(known, each, labels=range(classes)) for each in exact])),
            "flipped": float((found != before).mean()),
            "test": test if engines else None,
        }

    rows = [row("as it is")]
    if dense is not None:
        rows.append(row("the dense model", dense))
    routers = (changed(engine, partial(other_router, draw=draw)) for draw in range(draws))
    rows.append(row("another router", *routers))
    if all(isinstance(layer.experts, Experts) and not isinstance(layer, SplitMoE) for layer in layers):
        rows.append(row("their mean in place of all experts", changed(engine, mean_expert)))
    return rows


def _answers(engine: Engine, texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Probabilities `[B, C]` in the order of these classes."""
    return engine.predict_proba(texts)[:, [engine.label_names.index(name) for name in names]]


def changed(engine: Engine, change: Change) -> Engine:
    """An engine whose model is a copy with every MoE layer changed."""
    other = copy.copy(engine)
    other.model = copy.deepcopy(engine.model)
    for place, layer in enumerate(moe_layers(other.model)):
        change(layer, place)
    return other
