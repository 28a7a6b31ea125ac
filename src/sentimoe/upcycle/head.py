"""The head of a classifier: the modules beside the backbone that hold weights, and what computes the logits."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from ..errors import NotSupportedError

HEAD_NAMES = ("score", "classifier")  # of a model that is not loaded yet


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the head's modules ("classifier", "score", "base.pre_classifier", ...)."""
    return _beside(model, model.base_model, "")


def logits_layer(model: PreTrainedModel) -> nn.Linear:
    """The last linear layer of the head with an output per class. Raises NotSupportedError where the head has none."""
    classifier = _without_adapter(model)
    modules = [m for name in head_modules(classifier) for m in classifier.get_submodule(name).modules()]
    linears = [m for m in modules if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
    if not linears:
        raise NotSupportedError(f"{type(model).__name__} has no linear layer that computes its logits")
    return linears[-1]


def reads_last_token(model: PreTrainedModel) -> bool:
    """Whether the head answers at the last token, as that of a decoder does."""
    return any(name.split(".")[-1] == "score" for name in head_modules(_without_adapter(model)))


def _without_adapter(model: PreTrainedModel) -> PreTrainedModel:
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # peft's wrapper


def _beside(module: nn.Module, backbone: nn.Module, prefix: str) -> list[str]:
    found = []
    for name, child in module.named_children():
        if child is backbone or not any(True for _ in child.parameters()):
            continue
        holds_backbone = any(inner is backbone for inner in child.modules())
        found += _beside(child, backbone, f"{prefix}{name}.") if holds_backbone else [prefix + name]
    return found
