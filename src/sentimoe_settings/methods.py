"""The methods by name, with the settings of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic.fields import FieldInfo

from .base import Settings, panel, settings
from .errors import ConfigError
from .moe import MoEConfig

in_lora, in_p_tuning = panel("LoRA"), panel("P-Tuning")


@settings
class LoraSettings(Settings):
    """Settings of the methods `lora` and `moe-lora`."""

    r: int = in_lora(8, flag="--lora-r", ge=1)
    """Rank of the updates."""
    lora_alpha: int = in_lora(16, ge=1)
    """Scale of the updates, divided by the rank."""
    lora_dropout: float = in_lora(0.05, ge=0, lt=1)
    """Dropout before the updates."""


@settings
class PTuningSettings(Settings):
    """Settings of the method `p-tuning`."""

    num_virtual_tokens: int = in_p_tuning(20, ge=1)
    """Trained tokens before every text."""
    encoder_hidden_size: int = in_p_tuning(128, ge=1)
    """Hidden size of the network that makes them."""


@settings
class ZeroShotSettings(Settings):
    """Settings of the method `zero-shot`, which trains nothing."""

    mode: Literal["calibrated", "uncalibrated", "generate"] = "calibrated"
    """How a language model answers: by likelihoods (calibrated or not), or by generating a label."""


def _defaults(group: type[Settings], *names: str) -> dict[str, Any]:
    return {name: field.default for name, field in group.fields().items() if not names or name in names}


COPIES = _defaults(
    MoEConfig,
    "num_experts",
    "num_experts_per_tok",
    "layers_to_transform",
    "init",
    "init_noise",
    "router_aux_loss_coef",
    "router_z_loss_coef",
)
SPLIT = _defaults(
    MoEConfig, "num_experts_per_tok", "layers_to_transform", "router_aux_loss_coef", "router_z_loss_coef"
) | {"num_experts": 7, "num_shared_experts": 1}  # computes 3/8 of the FFN

GROUPS: tuple[type[Settings], ...] = (MoEConfig, LoraSettings, PTuningSettings, ZeroShotSettings)
# the settings of each method, with their defaults
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "bitfit": {},
    "lora": _defaults(LoraSettings),
    "p-tuning": _defaults(PTuningSettings),
    "moe-plain": COPIES,
    "moe-gated": COPIES,
    "moe-split": SPLIT,
    "moe-lora": COPIES | _defaults(LoraSettings) | {"lora_dropout": 0.0},  # peft has none for stacked weights
    "zero-shot": _defaults(ZeroShotSettings),
}
TRAINING = [name for name in METHOD_SETTINGS if name != "zero-shot"]


def method_fields() -> dict[str, FieldInfo]:
    """The fields of all settings of the methods that train."""
    fields = {name: field for group in GROUPS for name, field in group.fields().items()}
    return {name: field for name, field in fields.items() if any(name in METHOD_SETTINGS[each] for each in TRAINING)}


def check_trains(method: str) -> None:
    """Raises ConfigError for an unknown method and one that trains nothing."""
    if method not in METHOD_SETTINGS:
        raise ConfigError(f"method {method!r} does not exist; choose one of {', '.join(TRAINING)}")
    if method not in TRAINING:
        raise ConfigError(f"method {method!r} trains nothing; use `sentimoe evaluate MODEL --method {method}`")


def check_settings(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings of a method, checked, with lists as lists. Raises ConfigError."""
    complete = complete_settings(method, given)
    return {name: list(value) if isinstance(value := complete[name], tuple) else value for name in given}


def complete_settings(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a method, its defaults where none is given. Raises ConfigError."""
    if method not in METHOD_SETTINGS:
        check_trains(method)
    defaults = METHOD_SETTINGS[method]
    if unknown := sorted(map(str, set(given) - set(defaults))):
        allowed = ", ".join(defaults) or "none"
        able = [name for name, known in METHOD_SETTINGS.items() if set(unknown) <= set(known)]
        other = f"; methods with these: {', '.join(able)}" if able else ""
        raise ConfigError(f"method {method!r} has no settings {unknown}; it accepts: {allowed}{other}")
    complete = defaults | dict(given)
    for group in GROUPS:
        part = {name: value for name, value in complete.items() if name in group.fields()}
        fixed = {"init": "split"} if group is MoEConfig and method == "moe-split" else {}
        checked = group(**part, **fixed)
        complete |= {name: getattr(checked, name) for name in part}
    return complete
