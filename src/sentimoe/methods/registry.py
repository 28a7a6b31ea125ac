"""The ways of adapting a dense classifier, by name. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ..errors import ConfigError
from .full import full_fine_tuning
from .moe import moe_gated, moe_plain


@dataclass(frozen=True)
class Method:
    """One way of adapting a model.

    adapt: turns a dense classifier into the model to train, in place; takes the method's own settings.
    settings: the names of the settings it accepts.
    """

    summary: str
    adapt: Callable[..., PreTrainedModel]
    settings: tuple[str, ...] = ()


MOE_SETTINGS = (
    "num_experts",
    "num_experts_per_tok",
    "layers_to_transform",
    "init_noise",
    "router_aux_loss_coef",
    "router_z_loss_coef",
)

METHODS: dict[str, Method] = {
    "full": Method("full fine-tuning of the dense model", full_fine_tuning),
    "moe-plain": Method("experts that are plain FFNs", moe_plain, MOE_SETTINGS),
    "moe-gated": Method("experts with the gate inside", moe_gated, MOE_SETTINGS),
}


def adapt(model: PreTrainedModel, method: str, settings: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """Apply a method by name. Raises ConfigError for an unknown method or a setting that it does not have."""
    if method not in METHODS:
        raise ConfigError(f"method {method!r} does not exist; choose one of {sorted(METHODS)}")
    settings = dict(settings or {})
    if unknown := sorted(set(settings) - set(METHODS[method].settings)):
        allowed = ", ".join(METHODS[method].settings) or "none"
        raise ConfigError(f"method {method!r} has no settings {unknown}; it accepts: {allowed}")
    return METHODS[method].adapt(model, **settings)
