"""The mixture-of-experts layer: router, experts, and the place where padding is left out."""

from __future__ import annotations

import torch
from torch import nn

from .experts import Experts
from .router import Router, top_k
from .routing import LayerRouting, active_call


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

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        call = active_call()
        real = None if call is None else call.real_tokens(self, hidden)
        flat = hidden.reshape(-1, hidden.shape[-1])
        tokens = flat if real is None else flat.index_select(0, real)
        logits = self.router(tokens)
        weights, chosen = top_k(logits, self.num_experts_per_tok)
        if call is not None:
            call.record(self, LayerRouting(logits, chosen))
        output = self.dropout(self.experts(tokens, chosen, weights))
        if real is not None:
            output = output.new_zeros(flat.shape).index_copy(0, real, output)
        return output.view_as(hidden)
