"""What a mixture-of-experts conversion is told, and where an FFN lies inside a transformer layer."""

from __future__ import annotations

import dataclasses
import re
import reprlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import ConfigError


def read_yaml(path: Path, what: str, example: str) -> dict[str, Any]:
    """The mapping in a YAML file, which is a `what` and holds such as `example`. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"{what} {path} does not exist")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} is not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{what} {path} must hold {example}")
    return found


def check_rules(config: Any, rules: Iterable[tuple[str, bool, str]]) -> None:
    """Raises ConfigError at the first (field, whether it fits, what is allowed) that does not fit."""
    for name, fits, allowed in rules:
        if not fits:
            raise ConfigError(f"{name}={getattr(config, name)!r} is not allowed; it must be {allowed}")


def check_types(config: Any) -> None:
    """Raises ConfigError at the first field of a dataclass whose value is not of the type that it is declared with."""
    for name, kind in get_type_hints(type(config)).items():
        check_type(name, getattr(config, name), kind)


def check_type(name: str, value: Any, kind: Any) -> None:
    """Raises ConfigError when a setting's value is not of its type: no boolean is a number, no 4.5 or "4" whole."""
    if not _fits(value, kind):
        exponent = isinstance(value, str) and _is_number(kind) and re.fullmatch("[0-9]+[eE][+-]?[0-9]+", value)
        hint = " (YAML reads 1e-4 as text; write 1.0e-4)" if exponent else ""
        raise ConfigError(f"{name}={reprlib.repr(value)} is not allowed; it must be {_described(kind)}{hint}")


def check_whole(name: str, value: Any, low: int) -> None:
    """Raises ConfigError when a setting is no whole number of `low` or more."""
    check_type(name, value, int)
    if value < low:
        raise ConfigError(f"{name}={value} is not allowed; it must be {low} or more")


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in UNIONS:
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (list, tuple):
        return isinstance(value, (list, tuple, range)) and all(_fits(each, inner[0]) for each in value)
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind in (int, bool, str):
        return type(value) is kind
    return kind is Any or isinstance(value, origin or kind)


def _is_number(kind: Any) -> bool:
    return kind in (int, float) or any(_is_number(each) for each in get_args(kind))


def _described(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in UNIONS:
        return " or ".join(map(_described, inner))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin in (list, tuple):
        return f"a list, each {_described(inner[0])}"
    return TYPES.get(origin or kind, getattr(kind, "__name__", str(kind)))


UNIONS = (Union, UnionType)
TYPES = {
    int: "a whole number",
    float: "a plain number",
    bool: "true or false",
    str: "a string",
    dict: "names with values",
    NoneType: "None",
}


def known_fields(config_class: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values, if all of them are fields of the dataclass, and all that it needs. Raises ConfigError."""
    known = {item.name for item in dataclasses.fields(config_class)}
    if unknown := sorted(map(str, set(values) - known)):
        raise ConfigError(f"unknown settings {unknown}; allowed are {sorted(known)}")
    needed = {item.name for item in dataclasses.fields(config_class) if not _has_default(item)}
    if absent := sorted(needed - set(values)):
        raise ConfigError(f"settings {absent} are missing; {config_class.__name__} needs {sorted(needed)}")
    return values


def _has_default(item: dataclasses.Field) -> bool:
    return item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING


@dataclass(frozen=True)
class FFNLayout:
    """Where the feed-forward network lies in a transformer layer; every path is relative to the layer.

    `replace` names the module whose place the MoE takes: it receives hidden states `[..., D]` and returns `[..., D]`.
    `bypass` names a module that runs before it and becomes the identity (BERT's `intermediate`).
    `down`, `up`, `gate` name the linear projections; `gate` is None where the dense FFN has no gate. With `fused`,
    `up` holds gate and up in one matrix of `2F` rows: "gate_up" when the gate rows come first, "up_gate" otherwise.
    `act` names the activation; `hidden_dropout` the dropout before `down`, `output_dropout` the one after it.
    """

    replace: str
    up: str
    down: str
    act: str
    gate: str | None = None
    fused: Literal["gate_up", "up_gate"] | None = None
    bypass: str | None = None
    hidden_dropout: str | None = None
    output_dropout: str | None = None

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def gated(self) -> bool:
        """Whether the dense FFN already multiplies by a gate (Llama, ModernBERT)."""
        return self.gate is not None or self.fused is not None


@dataclass(frozen=True)
class MoEConfig:
    """How the FFNs of a model become experts. Names follow transformers and peft.

    num_experts: experts per layer, `E`.
    num_experts_per_tok: experts that read each token, `K`.
    expert: "gated" (`down(act(gate x) * up x)`) or "plain" (`down(act(up x))`).
    num_shared_experts: experts that read every token beside the routed ones; of `init="split"`.
    layers_to_transform: indices of the layers to convert, negative ones from the end; None: the last two, of
        `init="split"` all.
    init: "copy": every expert starts as the dense FFN. "copy-random-gate": the projection that a gated expert adds to a
        plain FFN starts at random instead of as the identity; the model then starts as another function. "split": the
        neurons of the dense FFN are divided among the experts, which together are the dense FFN.
    init_noise: symmetry-breaking noise added to the expert weights, relative to the deviation of each tensor.
    router_aux_loss_coef: weight of the load-balancing loss in the training loss.
    router_z_loss_coef: weight of the router z-loss in the training loss.
    experts_backend: "sorted" (fast), "grouped" (one grouped matrix product, for GPUs), "reference" (the slow loop they
        are tested against) or "gathered" (for export).
    ffn: where the FFN lies, for a model whose layout is not recognised; found by shape when None.

    Raises ConfigError for a value outside what is allowed.
    """

    num_experts: int = 4
    num_experts_per_tok: int = 2
    expert: Literal["gated", "plain"] = "gated"
    num_shared_experts: int = 0
    layers_to_transform: tuple[int, ...] | None = None
    init: Literal["copy", "copy-random-gate", "split"] = "copy"
    init_noise: float = 0.0
    router_aux_loss_coef: float = 1e-2
    router_z_loss_coef: float = 1e-3
    experts_backend: str = "sorted"
    ffn: FFNLayout | None = None

    def __post_init__(self) -> None:
        if isinstance(self.layers_to_transform, int):
            raise ConfigError(f"layers_to_transform={self.layers_to_transform} is a number; give a list: [-2, -1]")
        if isinstance(self.ffn, dict):
            object.__setattr__(self, "ffn", FFNLayout(**known_fields(FFNLayout, self.ffn)))
        check_types(self)
        if self.layers_to_transform is not None:
            object.__setattr__(self, "layers_to_transform", tuple(self.layers_to_transform))
        rules = (
            ("num_experts", self.num_experts >= 2, "at least 2"),
            (
                "num_experts_per_tok",
                1 <= self.num_experts_per_tok <= self.num_experts,
                f"between 1 and num_experts={self.num_experts}",
            ),
            ("num_shared_experts", self.num_shared_experts >= 0, "0 or more"),
            ("num_shared_experts", self.init == "split" or not self.num_shared_experts, "0, except with init='split'"),
            (
                "layers_to_transform",
                self.layers_to_transform is None or len(self.layers_to_transform) > 0,
                "at least one layer index",
            ),
            ("init_noise", 0 <= self.init_noise <= 1, "between 0 and 1"),
            ("router_aux_loss_coef", self.router_aux_loss_coef >= 0, "0 or more"),
            ("router_z_loss_coef", self.router_z_loss_coef >= 0, "0 or more"),
        )
        check_rules(self, rules)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MoEConfig:
        """Build from a JSON object. Raises ConfigError for a key that does not exist."""
        return cls(**known_fields(cls, values))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        layers = self.layers_to_transform
        return {**dataclasses.asdict(self), "layers_to_transform": None if layers is None else list(layers)}
