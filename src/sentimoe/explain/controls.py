"""Are there experts at all? The model beside one whose experts are all the same, and one that routes without reason."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score, log_loss

from ..evaluation import predicted_labels
from ..inference import Engine
from ..moe import Experts, MoE, SplitMoE
from ..upcycle import moe_layers


@torch.no_grad()
def mean_expert(layer: MoE) -> None:
    """Every expert becomes the mean of all, so that it does not matter which one reads a token."""
    for parameter in layer.experts.parameters():
        parameter.copy_(parameter.mean(dim=0, keepdim=True).expand_as(parameter))


@torch.no_grad()
def other_router(layer: MoE, seed: int = 0) -> None:
    """Weights drawn anew, with the deviation of the trained ones: tokens go somewhere, but not for a reason."""
    weight = layer.router.weight
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    weight.copy_(drawn.to(weight) * weight.float().std())
    if layer.router.bias is not None:
        layer.router.bias.zero_()


def controls(engine: Engine, texts: Sequence[str], labels: Sequence[int], draws: int = 3) -> dict[str, Any]:
    """The engine beside copies of its model in which one thing is taken away.

    Returns `distance`, for each layer how far the experts' weights lie from their mean, relative to their size (0:
    copies; noise at the start counts), and `rows`: the model as it is, with another router (mean of `draws`), and with
    the mean expert (not of a divided FFN, whose experts are different neurons, nor under LoRA that is not merged). A
    row has `name`, `f1_weighted`, `log_loss` and `flipped`, the share of texts whose label is another than the model's.
    """
    layers = moe_layers(engine.model)
    whole_ffns = all(isinstance(layer.experts, Experts) and not isinstance(layer, SplitMoE) for layer in layers)
    whole = engine.predict_proba(texts)

    def row(name: str, *changes: Callable[[MoE], None]) -> dict[str, Any]:
        answers = [changed(engine, change).predict_proba(texts) for change in changes] or [whole]
        scores = [_scores(each, whole, labels) for each in answers]
        return {"name": name} | {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}

    rows = [row("as it is"), row("another router", *(partial(other_router, seed=seed) for seed in range(draws)))]
    if whole_ffns:
        rows.append(row("their mean in place of all experts", mean_expert))
    return {"distance": [_distance(layer) for layer in layers] if whole_ffns else None, "rows": rows}


def changed(engine: Engine, change: Callable[[MoE], None]) -> Engine:
    """An engine whose model is a copy with every MoE layer changed."""
    other = copy.copy(engine)
    other.model = copy.deepcopy(engine.model)
    for layer in moe_layers(other.model):
        change(layer)
    return other


def _scores(probabilities: np.ndarray, whole: np.ndarray, labels: Sequence[int]) -> dict[str, float]:
    classes = list(range(probabilities.shape[1]))
    found, exact = predicted_labels(probabilities), probabilities.astype(np.float64)
    return {
        "f1_weighted": float(f1_score(labels, found, labels=classes, average="weighted", zero_division=0)),
        "log_loss": float(log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=classes)),
        "flipped": float((found != predicted_labels(whole)).mean()),
    }


@torch.no_grad()
def _distance(layer: MoE) -> float:
    weights = [layer.experts.in_proj.float(), layer.experts.down_proj.float()]
    apart = torch.stack([(each - each.mean(dim=0, keepdim=True)).square().sum() for each in weights]).sum()
    return float((apart / torch.stack([each.square().sum() for each in weights]).sum()).sqrt())
