"""Experts, plain or with a gated linear unit (GLU) inside: 3-D weights, one slice an expert."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .backends import EXPERTS_BACKENDS


class Experts(nn.Module):
    """`E` feed-forward networks in stacked parameters (one tensor each, so that DDP never misses one).

    gated: `down(act(gate x + b) * (up x + c)) + d`, with `gate_up_proj` `[E, 2F, D]` (gate rows first), its bias
    `[E, 2F]`, `down_proj` `[E, D, F]`, its bias `[E, D]`. plain: `down(act(up x + b)) + d`, with `up_proj` `[E, F, D]`.
    """

    gate_up_proj: nn.Parameter
    up_proj: nn.Parameter
    gate_up_proj_bias: nn.Parameter
    up_proj_bias: nn.Parameter

    def __init__(
        self,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        act: Callable[[torch.Tensor], torch.Tensor],
        *,
        gated: bool,
        bias: bool,
        down_bias: bool | None = None,
        hidden_dropout: float = 0.0,
        backend: str = "sorted",
    ):
        super().__init__()
        self.num_experts, self.has_gate, self.has_bias = num_experts, gated, bias
        self.has_down_bias = bias if down_bias is None else down_bias
        self.act_fn, self.backend = act, backend
        self.dropout = nn.Dropout(hidden_dropout)
        rows = 2 * intermediate_size if gated else intermediate_size
        name = "gate_up_proj" if gated else "up_proj"
        self.register_parameter(name, nn.Parameter(torch.empty(num_experts, rows, hidden_size)))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        if bias:
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(num_experts, rows)))
        if self.has_down_bias:
            self.down_proj_bias = nn.Parameter(torch.empty(num_experts, hidden_size))
        for parameter_name, parameter in self.named_parameters():
            if parameter_name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.02)

    @property
    def in_proj(self) -> torch.Tensor:
        """The first projection of every expert, `[E, 2F, D]` (gated) or `[E, F, D]` (plain)."""
        return self.gate_up_proj if self.has_gate else self.up_proj

    @property
    def in_proj_bias(self) -> torch.Tensor | None:
        """Its bias, `[E, 2F]` or `[E, F]`; None where the FFN has no bias."""
        if not self.has_bias:
            return None
        return self.gate_up_proj_bias if self.has_gate else self.up_proj_bias

    def forward(self, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """tokens `[T, D]`, chosen experts and their weights `[T, K]` (None: all 1) -> weighted sum `[T, D]`."""
        compiled = self.backend == "sorted" and torch.compiler.is_compiling()  # sizes may not depend on data then
        return EXPERTS_BACKENDS["reference" if compiled else self.backend](self, tokens, chosen, weights)

    def activate(self, first: torch.Tensor, up: torch.Tensor | None = None) -> torch.Tensor:
        """What `down_proj` reads, `[S, F]`: `act(gate) * up` of gated experts, `act(up)` of plain ones; dropout."""
        activated = self.act_fn(first)
        return self.dropout(activated if up is None else activated * up)


class SharedExpert(nn.Module):
    """One FFN that every token meets; its output bias is given from outside. Gate rows first, as in `Experts`."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        act: Callable[[torch.Tensor], torch.Tensor],
        *,
        gated: bool,
        bias: bool,
        hidden_dropout: float = 0.0,
    ):
        super().__init__()
        self.has_gate, self.act_fn = gated, act
        self.dropout = nn.Dropout(hidden_dropout)
        self.in_proj = nn.Linear(hidden_size, intermediate_size * (2 if gated else 1), bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """tokens `[T, D]`, output bias `[D]` -> `[T, D]`."""
        projected = self.in_proj(tokens)
        if self.has_gate:
            gate, up = projected.chunk(2, dim=-1)
            hidden = self.act_fn(gate) * up
        else:
            hidden = self.act_fn(projected)
        return F.linear(self.dropout(hidden), self.down_proj.weight, bias)
