"""Sparse upcycling: the FFNs of some layers become experts, then every weight is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from ..config import MoEConfig
from ..upcycle import find_layout, transformer_layers, upcycle


def moe_plain(model: PreTrainedModel, **settings: Any) -> PreTrainedModel:
    """Experts that are copies of the plain dense FFN."""
    return upcycle(model, MoEConfig(expert="plain", **settings))


def moe_gated(model: PreTrainedModel, **settings: Any) -> PreTrainedModel:
    """Experts with a gate inside, which starts as the identity where the dense FFN has none."""
    return upcycle(model, MoEConfig(expert="gated", **settings))


def moe_split(model: PreTrainedModel, texts: Sequence[Mapping[str, torch.Tensor]], **settings: Any) -> PreTrainedModel:
    """The FFN of every layer divided among a shared and routed experts, a part of which read each token.

    texts: tokenised texts in batches, from which the division and the router are made. Experts keep the form of the
    dense FFN, gated or plain.
    """
    layers = transformer_layers(model, model.config.get_text_config().num_hidden_layers)
    expert: Literal["gated", "plain"] = "gated" if find_layout(layers[0]).gated else "plain"
    return upcycle(model, MoEConfig(init="split", expert=expert, **settings), texts=texts)
