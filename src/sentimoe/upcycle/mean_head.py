"""Mean pooling, and the backbones that it stands on."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import MODEL_MAPPING

from ..errors import ConfigError


def mean_over_real_tokens(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """hidden `[B, L, D]`, attention_mask `[B, L]` or None -> `[B, D]`; the sum is taken in float32."""
    if attention_mask is None:
        return hidden.mean(dim=1)
    mask = attention_mask[:, -hidden.shape[1] :].unsqueeze(-1).float()  # with a cache it is longer than the texts
    mean = (hidden.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1.0)
    return mean.to(hidden.dtype)


def backbone_class(base: Any) -> Any:
    """The headless model of an architecture. Raises ConfigError when transformers has none."""
    if base not in MODEL_MAPPING:
        raise ConfigError(f"{base.__name__} has no model registered with AutoModel")
    return MODEL_MAPPING[base]


def without_pooler(model_class: Any) -> dict[str, bool]:
    """The constructor argument that leaves the pooler out, where the architecture has one."""
    accepted = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
