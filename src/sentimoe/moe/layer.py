"""The mixture-of-experts layer: router, experts, and the place where padding is left out."""

from __future__ import annotations

import torch
from torch import nn

from .experts import Experts, SharedExpert
from .grouped import filled_up
from .router import Router, top_k, top_k_unit
from .routing import LayerRouting, active_call, open_experts


class MoE(nn.Module):
    """Takes the place of an FFN: hidden states `[B, L, D]` -> `[B, L, D]`.

    Each real token is read by its `K` best experts, whose outputs are summed with weights that sum to 1: token choice,
    no capacity, no dropping, so a token's result depends on that token alone. Padding reaches neither router nor
    experts; its output is zero.
    """

    def __init__(self, router: Router, experts: Experts, num_experts_per_tok: int, output_dropout: float):
        super().__init__()
        self.router, self.experts = router, experts
        self.num_experts_per_tok = num_experts_per_tok
        self.dropout = nn.Dropout(output_dropout)

    @property
    def bare_experts(self) -> Experts:
        """The experts themselves, where peft wraps them to add its updates."""
        return next(module for module in self.experts.modules() if isinstance(module, Experts))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        call = active_call()
        real = None if call is None else call.real_tokens(self, hidden)
        flat = hidden.reshape(-1, hidden.shape[-1])
        rows = filled_up(real) if self.bare_experts.backend == "sorted" and real is not None else real
        tokens = flat if rows is None else flat.index_select(0, rows)
        logits = open_experts(self, self.router(tokens))
        output, chosen = self.mix(tokens, logits)
        count = len(tokens) if real is None else len(real)
        if call is not None:
            call.record(self, LayerRouting(logits[:count], chosen[:count]))
        output = self.dropout(output)
        if real is not None:
            output = output.new_zeros(flat.shape).index_copy(0, real, output[:count])
        return output.view_as(hidden)

    def mix(self, tokens: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """tokens `[T, D]`, logits `[T, E]` -> output `[T, D]`, chosen experts `[T, K]`."""
        weights, chosen = self.choose(logits)
        return self.experts(tokens, chosen, weights), chosen

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """logits `[T, E]` -> weights (None: all 1) and chosen experts, both `[T, K]`, the best one first."""
        return top_k(logits, self.num_experts_per_tok)


class SplitMoE(MoE):
    """One FFN whose neurons are divided among a shared expert (always on) and routed ones; all of them together are it.

    `y = shared(x) + sum_{e chosen} expert_e(x) + sum_{e not chosen} mean_e + output_bias`: the experts that do not read
    a token are replaced by their mean output. `experts.down_proj_bias` `[E, D]` holds `-mean_e`, so that the two sums
    of means are one, and cancel when all experts are active. Every chosen expert has weight 1.

    neurons: `[F]`, the places in the dense FFN of the shared expert's neurons, then of each expert's in turn.
    """

    neurons: torch.Tensor

    def __init__(
        self,
        router: Router,
        experts: Experts,
        shared: SharedExpert | None,
        num_experts_per_tok: int,
        output_dropout: float,
        width: int,
    ):
        super().__init__(router, experts, num_experts_per_tok, output_dropout)
        self.shared = shared
        self.output_bias = nn.Parameter(torch.zeros(experts.down_proj.shape[1])) if experts.has_bias else None
        self.register_buffer("neurons", torch.arange(width))

    def mix(self, tokens: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """tokens `[T, D]`, logits `[T, E]` -> output `[T, D]`, chosen experts `[T, K]`."""
        weights, chosen = self.choose(logits)
        constant = -self.experts.down_proj_bias.sum(dim=0)
        if self.output_bias is not None:
            constant = constant + self.output_bias
        beside = constant if self.shared is None else self.shared(tokens, constant)
        output = self.experts(tokens, chosen, weights)
        return output + beside.to(output.dtype), chosen

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """logits `[T, E]` -> weights (None: all 1) and chosen experts, both `[T, K]`, the best one first."""
        return top_k_unit(logits, self.num_experts_per_tok)
