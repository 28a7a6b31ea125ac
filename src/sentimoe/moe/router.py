"""Token-choice routing: softmax, then top-k, always in float32."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Router(nn.Module):
    """Scores every expert for every token: `logits = x W^T (+ b)`, `W` is `[E, D]`, `b` is `[E]`.

    Computed in float32 whatever the precision of the model (Fedus et al. 2021, Switch Transformers, section 2.4).
    """

    def __init__(self, num_experts: int, hidden_size: int, init_std: float = 0.02, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        nn.init.normal_(self.weight, std=init_std)
        self.bias = nn.Parameter(torch.zeros(num_experts)) if bias else None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens `[T, D]` -> logits `[T, E]`, float32."""
        with torch.autocast(device_type=tokens.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(tokens.float(), self.weight.float(), bias)


def top_k(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the `k` experts of each token and how much each one counts.

    logits `[T, E]` -> weights `[T, K]` (float32, each row sums to 1), experts `[T, K]` (int64).
    With `k == 1` the weight is `p / p.detach()`: its value is 1 and the router still gets a gradient.
    """
    probabilities = logits.softmax(dim=-1)
    chosen, experts = probabilities.topk(k, dim=-1)
    total = chosen.detach() if k == 1 else chosen.sum(dim=-1, keepdim=True)
    return chosen / total, experts


def straight_through_top_k(logits: torch.Tensor, k: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Choose the `k` experts of each token; every one counts fully, as parts of one FFN do.

    logits `[T, E]` -> weights `[T, K]` of value 1 that pass the gradient of `ln p` to the router (None, which stands
    for 1, where no gradient is wanted), experts `[T, K]` (int64).
    """
    experts = logits.topk(k, dim=-1).indices
    if not torch.is_grad_enabled():
        return None, experts
    chosen = logits.log_softmax(dim=-1).gather(-1, experts)
    return (chosen - chosen.detach()).exp(), experts
