"""Sparse upcycling: the FFNs of some layers become experts, then every weight is trained."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from ..config import MoEConfig
from ..upcycle import upcycle


def moe_plain(model: PreTrainedModel, **settings: Any) -> PreTrainedModel:
    """Experts that are copies of the plain dense FFN."""
    return upcycle(model, MoEConfig(expert="plain", **settings))


def moe_gated(model: PreTrainedModel, **settings: Any) -> PreTrainedModel:
    """Experts with a gate inside, which starts as the identity where the dense FFN has none."""
    return upcycle(model, MoEConfig(expert="gated", **settings))
