"""The ways of adapting a dense classifier, by name. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_type_hints

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from ..config import MoEConfig, check_type, check_whole
from ..errors import ConfigError
from .bitfit import bitfit
from .full import full_fine_tuning
from .lora import lora, moe_lora
from .moe import moe_gated, moe_plain, moe_split
from .p_tuning import p_tuning
from .zero_shot import ZeroShot

Model: TypeAlias = PreTrainedModel | PeftModel


@dataclass(frozen=True)
class Method:
    """One way of adapting a model.

    adapt: turns a dense classifier into the model to train, in place; takes the method's own settings. None: nothing is
        trained (zero-shot).
    settings: the names of the settings it accepts.
    needs_texts: `adapt` is also given tokenised texts, in batches.
    keeps_teacher: with a teacher it starts from the teacher's own weights, not from a fresh classifier.
    merges: its updates can be added to the weights after training.
    freezes: it can leave the other weights frozen, in 4 bits.
    rate_scale: its default learning rate over that of full fine-tuning; methods that train few weights need more.
    """

    summary: str
    adapt: Callable[..., Model] | None
    settings: tuple[str, ...] = ()
    needs_texts: bool = False
    keeps_teacher: bool = False
    merges: bool = False
    freezes: bool = False
    rate_scale: float = 1.0


MOE_SETTINGS = (
    "num_experts",
    "num_experts_per_tok",
    "layers_to_transform",
    "init",
    "init_noise",
    "router_aux_loss_coef",
    "router_z_loss_coef",
)
SPLIT_SETTINGS = (
    "num_experts",
    "num_shared_experts",
    "num_experts_per_tok",
    "layers_to_transform",
    "router_aux_loss_coef",
    "router_z_loss_coef",
)
PROMPT_SETTINGS = ("num_virtual_tokens", "encoder_hidden_size")
ZERO_SHOT_SETTINGS = ("mode",)
LORA_SETTINGS = ("r", "lora_alpha", "lora_dropout")
POSITIVE = ("r", "lora_alpha", "num_virtual_tokens", "encoder_hidden_size")

METHODS: dict[str, Method] = {
    "full": Method("full fine-tuning of the dense model", full_fine_tuning),
    "bitfit": Method("biases and the head", bitfit, rate_scale=10),
    "lora": Method(
        "low-rank updates of attention and FFN", lora, LORA_SETTINGS, merges=True, freezes=True, rate_scale=10
    ),
    "p-tuning": Method("virtual tokens before the text", p_tuning, PROMPT_SETTINGS, rate_scale=30),
    "moe-plain": Method("experts that are plain FFNs", moe_plain, MOE_SETTINGS, freezes=True),
    "moe-gated": Method("experts with the gate inside", moe_gated, MOE_SETTINGS, freezes=True),
    "moe-split": Method(
        "the dense FFNs divided among experts", moe_split, SPLIT_SETTINGS, needs_texts=True, keeps_teacher=True
    ),
    "moe-lora": Method(
        "low-rank updates of attention and experts", moe_lora, MOE_SETTINGS + LORA_SETTINGS, merges=True, rate_scale=10
    ),
    "zero-shot": Method("label words scored by a language model; nothing is trained", None, ZERO_SHOT_SETTINGS),
}


def adapt(
    model: PreTrainedModel,
    method: str,
    settings: Mapping[str, Any] | None = None,
    texts: Sequence[Mapping[str, torch.Tensor]] = (),
) -> Model:
    """Apply a method by name. texts: tokenised texts in batches, for a method that needs them.

    Raises ConfigError for an unknown method, one that trains nothing or a setting that it does not have, and
    NotSupportedError where the method does not exist for this kind of model.
    """
    adapt_by_method = check_trains(method)
    given = check_settings(method, settings or {})
    if METHODS[method].needs_texts:
        given["texts"] = texts
    return adapt_by_method(model, **given)


def check_trains(method: str) -> Callable[..., Model]:
    """What adapts a model by that method. Raises ConfigError for an unknown method and one that trains nothing."""
    adapt_by_method = find_method(method, [name for name, each in METHODS.items() if each.adapt is not None]).adapt
    if adapt_by_method is None:
        raise ConfigError(f"method {method!r} trains nothing; use `sentimoe evaluate MODEL --method {method}`")
    return adapt_by_method


def find_method(method: str, offered: Sequence[str] = tuple(METHODS)) -> Method:
    """The method of that name. Raises ConfigError, which names those offered, when there is none."""
    if method not in METHODS:
        raise ConfigError(f"method {method!r} does not exist; choose one of {', '.join(offered)}")
    return METHODS[method]


def check_settings(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, if the method has them all, with values of their types. Raises ConfigError."""
    if unknown := sorted(map(str, set(settings) - set(find_method(method).settings))):
        allowed = ", ".join(METHODS[method].settings) or "none"
        raise ConfigError(f"method {method!r} has no settings {unknown}; it accepts: {allowed}")
    kinds = get_type_hints(MoEConfig) | get_type_hints(METHODS[method].adapt or ZeroShot.__init__)
    for name, value in settings.items():
        check_type(name, value, kinds[name])
        if name in POSITIVE:
            check_whole(name, value, 1)
    if not 0 <= settings.get("lora_dropout", 0) < 1:
        raise ConfigError(f"lora_dropout={settings['lora_dropout']} is not allowed; it must be 0 or more and below 1")
    return dict(settings)


def merge(model: Model, method: str) -> Model:
    """Add trained low-rank updates to the weights: the result is a plain model, as fast as the one it started from.

    Methods without such updates give the model back as it is.
    """
    return model.merge_and_unload() if METHODS[method].merges and isinstance(model, PeftModel) else model
