"""Fill experts from a dense FFN, by default so that the layer starts as exactly the dense function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ConfigError
from ..moe import Experts, MoE
from .layout import DenseFFN
from .split import split_init


@torch.no_grad()
def copy_init(experts: Experts, ffn: DenseFFN) -> None:
    """Every expert becomes the dense FFN (Komatsuzaki et al. 2023, Sparse Upcycling).

    A gated expert made from a plain FFN `W2 act(W1 x + b1) + b2` starts as `gate = W1, b1`, `up = 0` with bias 1,
    `down = W2, b2`: the product with `up` changes nothing until training moves it.
    """
    if not experts.has_gate:
        first, first_bias = ffn.up, ffn.up_bias
    elif ffn.gate is not None:
        first = torch.cat([ffn.gate, ffn.up])
        first_bias = torch.cat([_or_zero(ffn.gate_bias, ffn.gate), _or_zero(ffn.up_bias, ffn.up)])
    else:
        first = torch.cat([ffn.up, torch.zeros_like(ffn.up)])
        first_bias = torch.cat([_or_zero(ffn.up_bias, ffn.up), torch.ones_like(ffn.up[:, 0])])
    experts.in_proj.copy_(first.expand_as(experts.in_proj))
    experts.down_proj.copy_(ffn.down.expand_as(experts.down_proj))
    if experts.has_bias:
        assert experts.in_proj_bias is not None
        experts.in_proj_bias.copy_(_or_zero(first_bias, first).expand_as(experts.in_proj_bias))
        experts.down_proj_bias.copy_(_or_zero(ffn.down_bias, ffn.down).expand_as(experts.down_proj_bias))


@torch.no_grad()
def copy_random_gate_init(experts: Experts, ffn: DenseFFN) -> None:
    """As `copy_init`, but the added projection `up` is random, with the deviation of `W1` and without its bias of 1.

    The control for the identity start: the model starts as another function than the dense one. Raises ConfigError
    where no gate is added (plain experts, or a dense FFN that is gated already).
    """
    if not experts.has_gate or ffn.gate is not None:
        raise ConfigError("init='copy-random-gate' needs a gate to be added: expert='gated' on a plain dense FFN")
    copy_init(experts, ffn)
    up = experts.in_proj.chunk(2, dim=1)[1]
    up.copy_(torch.randn_like(up) * ffn.up.std())
    if experts.has_bias:
        assert experts.in_proj_bias is not None
        experts.in_proj_bias.chunk(2, dim=1)[1].zero_()


@dataclass(frozen=True)
class Initialisation:
    """How a dense FFN becomes experts.

    fill: writes the dense FFN into a layer, given the hidden states `[T, D]` that reached it on real text, or None.
    preserves: the layer then is the dense function (of a split: with all experts active).
    needs_texts: `fill` must be given hidden states.
    """

    fill: Callable[[MoE, DenseFFN, Any], None]
    preserves: bool = True
    needs_texts: bool = False


INITIALISATIONS: dict[str, Initialisation] = {
    "copy": Initialisation(lambda moe, ffn, tokens: copy_init(moe.experts, ffn)),
    "copy-random-gate": Initialisation(
        lambda moe, ffn, tokens: copy_random_gate_init(moe.experts, ffn), preserves=False
    ),
    "split": Initialisation(lambda moe, ffn, tokens: split_init(moe, ffn, tokens), needs_texts=True),
}


@torch.no_grad()
def add_noise(experts: Experts, relative_std: float) -> None:
    """Break the symmetry of copied experts: Gaussian noise relative to the deviation of each expert's matrix.

    A gate that is the identity has deviation 0 and stays the identity.
    """
    parts = [*experts.in_proj.chunk(2 if experts.has_gate else 1, dim=1), experts.down_proj]
    for weights in parts:
        weights.add_(torch.randn_like(weights) * weights.std(dim=(1, 2), keepdim=True) * relative_std)


def _or_zero(bias: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(weight[:, 0]) if bias is None else bias
