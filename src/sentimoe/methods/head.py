"""Which modules of a classifier are its head: those beside the backbone that hold weights."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the head's modules ("classifier", "score", "base.pre_classifier", ...)."""
    return _beside(model, model.base_model, "")


def _beside(module: nn.Module, backbone: nn.Module, prefix: str) -> list[str]:
    found = []
    for name, child in module.named_children():
        if child is backbone or not any(True for _ in child.parameters()):
            continue
        holds_backbone = any(inner is backbone for inner in child.modules())
        found += _beside(child, backbone, f"{prefix}{name}.") if holds_backbone else [prefix + name]
    return found
