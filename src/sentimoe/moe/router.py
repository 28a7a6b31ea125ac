"""Token-choice routing: softmax, then top-k, always in float32."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Router(nn.Module):
    """Scores every expert for every token: `logits = x W^T`, `W` is `[E, D]`.

    Computed in float32 whatever the precision of the model (Fedus et al. 2021, Switch Transformers, section 2.4).
    """

    def __init__(self, num_experts: int, hidden_size: int, init_std: float = 0.02):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        nn.init.normal_(self.weight, std=init_std)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens `[T, D]` -> logits `[T, E]`, float32."""
        with torch.autocast(device_type=tokens.device.type, enabled=False):
            return F.linear(tokens.float(), self.weight.float())


def top_k(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the `k` experts of each token and how much each one counts.

    logits `[T, E]` -> weights `[T, K]` (float32, each row sums to 1), experts `[T, K]` (int64).
    With `k == 1` the weight is `p / p.detach()`: its value is 1 and the router still gets a gradient.
    """
    probabilities = logits.softmax(dim=-1)
    chosen, experts = probabilities.topk(k, dim=-1)
    total = chosen.detach() if k == 1 else chosen.sum(dim=-1, keepdim=True)
    return chosen / total, experts
