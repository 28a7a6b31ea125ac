"""Which modules of a classifier are its head: the children beside the backbone that hold weights."""

from __future__ import annotations

from transformers import PreTrainedModel


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the head's modules ("classifier", "score", "pre_classifier", ...)."""
    return [
        name
        for name, child in model.named_children()
        if child is not model.base_model and any(True for _ in child.parameters())
    ]
