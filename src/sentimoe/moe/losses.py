"""Auxiliary losses of the router, as pure functions of real tokens.

Padding is left out before they are called. Compiled, where sizes may not depend on data, `real` `[T]` bool says which
rows count.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def expert_pairs(experts: torch.Tensor, num_experts: int, real: torch.Tensor | None = None) -> torch.Tensor:
    """How many of the (token, choice) pairs each expert receives.

    experts `[T, K]` int -> `[E]` float32.
    """
    per_token = F.one_hot(experts, num_experts).sum(dim=1).float()
    return (per_token if real is None else per_token * real[:, None]).sum(dim=0)


def expert_load(experts: torch.Tensor, num_experts: int, real: torch.Tensor | None = None) -> torch.Tensor:
    """Share of the (token, choice) pairs that each expert receives.

    experts `[T, K]` int -> `[E]` float32 that sums to 1 (all zero when there is no token).
    """
    tokens = max(len(experts), 1) if real is None else real.float().sum().clamp_min(1)
    return expert_pairs(experts, num_experts, real) / tokens / experts.shape[1]


def load_balancing_loss(
    logits: torch.Tensor, experts: torch.Tensor, real: torch.Tensor | None = None, load: torch.Tensor | None = None
) -> torch.Tensor:
    """`E * sum_e load_e * mean_t p_te`: 1 when the load is even, up to `E` when one expert takes all.

    Fedus et al. 2021 (Switch Transformers), equation 4; for K > 1 the load counts every choice and still sums to 1.
    logits `[T, E]`, experts `[T, K]` -> scalar; the gradient flows through the probabilities only.

    load: `[E]`, of a whole batch of which these tokens are a part; None: theirs. With it the loss of the batch is the
    mean over its tokens, so the losses of parts, each times its share of the tokens, add up to it.
    """
    num_experts = logits.shape[-1]
    load = expert_load(experts, num_experts, real) if load is None else load
    return num_experts * torch.dot(load, _mean(logits.softmax(dim=-1), real))


def router_z_loss(logits: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    """`mean_t logsumexp(logits_t)^2`: keeps router logits small. Zoph et al. 2022 (ST-MoE), equation 5.

    logits `[T, E]` -> scalar.
    """
    return _mean(logits.logsumexp(dim=-1).square(), real)


def _mean(values: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """Mean of `[T, ...]` over the rows that count; 0 when there are none."""
    if real is None:
        return values.sum(dim=0) / max(values.shape[0], 1)
    weight = real.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
    return (values * weight).sum(dim=0) / weight.sum().clamp_min(1)
