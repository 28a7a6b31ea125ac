"""The mixture-of-experts layer: a router sends each token to its best experts, whose outputs are summed."""

from __future__ import annotations

import torch
from torch import nn

from .experts import Experts, SharedExpert
from .router import Router, straight_through_top_k, top_k
from .routing import LayerRouting, RealTokens, active_call, masked_logits


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
    def base_experts(self) -> Experts:
        """The experts themselves, where peft wraps them to add its updates."""
        return next(module for module in self.experts.modules() if isinstance(module, Experts))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden `[B, L, D]` -> `[B, L, D]`."""
        call = active_call()
        real = None if call is None else call.real_tokens(self, hidden)
        tokens = self._unpad(hidden, real)  # [T, D]
        logits = masked_logits(self, self.router(tokens))  # [T, E]
        weights, chosen = self.choose(logits)  # [T, K]
        output = self.dropout(self.mix(tokens, weights, chosen))  # [T, D]
        if call is not None and real is not None:
            call.record(self, _decided(logits, chosen, real))
        return _pad(output, real, hidden)

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """logits `[T, E]` -> weights (None: all 1) and chosen experts, both `[T, K]`, the best one first."""
        return top_k(logits, self.num_experts_per_tok)

    def mix(self, tokens: torch.Tensor, weights: torch.Tensor | None, chosen: torch.Tensor) -> torch.Tensor:
        """tokens `[T, D]`, weights and chosen experts `[T, K]` -> output `[T, D]`."""
        return self.experts(tokens, chosen, weights)

    def _unpad(self, hidden: torch.Tensor, real: RealTokens | None) -> torch.Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        sorted_loop = self.base_experts.backend == "sorted"  # the repeated rows change no result
        rows = None if real is None else real.padded_rows if sorted_loop else real.rows
        return flat if rows is None else flat.index_select(0, rows)


def _pad(output: torch.Tensor, real: RealTokens | None, hidden: torch.Tensor) -> torch.Tensor:
    """Put the outputs `[T, D]` back where their tokens stand in `hidden` `[B, L, D]`; zero at padding."""
    if real is None:
        return output.view_as(hidden)
    if real.rows is None:
        if torch.compiler.is_compiling():
            output = output * real.mask.unsqueeze(1)
        return output.view_as(hidden)
    whole = output.new_zeros(hidden.shape[0] * hidden.shape[1], hidden.shape[2])
    return whole.index_copy(0, real.rows, output[: len(real.rows)]).view_as(hidden)


def _decided(logits: torch.Tensor, chosen: torch.Tensor, real: RealTokens) -> LayerRouting:
    if torch.compiler.is_compiling():
        return LayerRouting(logits, chosen, real.mask)
    if real.rows is None:
        return LayerRouting(logits, chosen)
    count = len(real.rows)
    return LayerRouting(logits[:count], chosen[:count])


class SplitMoE(MoE):
    """One dense FFN, its neurons divided among a shared expert, which is always on, and routed experts.

    `y = shared(x) + sum_{e chosen} expert_e(x) + sum_{e not chosen} mean_e + output_bias`: the experts that do not read
    a token are replaced by their mean output. `experts.down_proj_bias` `[E, D]` holds `-mean_e`, so that the two sums
    of means are one, and cancel when all experts are active. Every chosen expert has weight 1.

    neuron_permutation: `[F]`, where in the dense FFN the shared expert's neurons stand, then each expert's in turn.
    """

    neuron_permutation: torch.Tensor

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
        self.register_buffer("neuron_permutation", torch.arange(width))

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """logits `[T, E]` -> weights (None: all 1) and chosen experts, both `[T, K]`, the best one first."""
        return straight_through_top_k(logits, self.num_experts_per_tok)

    def mix(self, tokens: torch.Tensor, weights: torch.Tensor | None, chosen: torch.Tensor) -> torch.Tensor:
        """tokens `[T, D]`, weights and chosen experts `[T, K]` -> output `[T, D]`."""
        constant = -self.experts.down_proj_bias.sum(dim=0)
        if self.output_bias is not None:
            constant = constant + self.output_bias
        beside = constant if self.shared is None else self.shared(tokens, constant)
        output = self.experts(tokens, chosen, weights)
        return output + beside.to(output.dtype)
