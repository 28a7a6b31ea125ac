"""What of a top is trained for a domain: a registry, so that the kinds can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from ..inference.routed import DOWN, UP
from ..inference.segments import Segment
from ..upcycle import find_layout, head_modules

RANK, SCALE = 8, 2.0


class LowRank(nn.Module):
    """Adds `B @ A` to a weight `[out, in]`; B starts at 0."""

    def __init__(self, weight: torch.Tensor, rank: int):
        super().__init__()
        out, inputs = weight.shape
        self.down = nn.Parameter(torch.empty(rank, inputs, device=weight.device))
        self.up = nn.Parameter(torch.zeros(out, rank, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as peft does

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight."""
        return weight + SCALE * (self.up @ self.down)


def lora(top: Segment) -> None:
    """Low-rank updates of every linear map of the layers, attention and FFN alike."""
    for layer in top.own_layers:
        for module in list(layer.modules()):
            if isinstance(module, nn.Linear | Conv1D):
                parametrize.register_parametrization(module, "weight", LowRank(module.weight, RANK))


def experts(top: Segment) -> None:
    """An expert of its own: the FFN of each layer, which starts as a copy of the base's."""
    for layer in top.own_layers:
        layout = find_layout(layer)
        for path in filter(None, (layout.gate, layout.up, layout.down)):
            layer.get_submodule(path).requires_grad_(True)


# a kind makes what it trains in a frozen top trainable, in place; and its learning rate over that of full fine-tuning
KINDS: dict[str, tuple[Callable[[Segment], None], float]] = {"lora": (lora, 10.0), "experts": (experts, 3.0)}
DEFAULT = "lora"  # docs/decisions.md: experts are no better, and twenty times as large


def start(top: Segment, kind: str) -> None:
    """Freeze a top but for what the kind trains, and the head."""
    top.requires_grad_(False)
    KINDS[kind][0](top)
    for name in head_modules(top.model):
        top.model.get_submodule(name).requires_grad_(True)


def updates_of(top: Segment) -> dict[str, torch.Tensor]:
    """What training changed, by the name of the weight, as `Domain.updates`: in 16 bits, the head as it is."""
    heads = tuple(f"{name}." for name in head_modules(top.model))
    found: dict[str, torch.Tensor] = {}
    for path, module in top.model.named_modules():
        if isinstance(module, LowRank):
            name = path.removesuffix(".0").replace(".parametrizations", "")
            found |= {name + DOWN: module.down.detach(), name + UP: SCALE * module.up.detach()}
    for name, parameter in top.model.named_parameters():
        if parameter.requires_grad and ".parametrizations." not in name:
            found[name] = parameter.detach()
    return {name: each.clone() if name.startswith(heads) else each.half() for name, each in found.items()}
