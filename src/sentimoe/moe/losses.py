"""Auxiliary losses of the router, as pure functions of real tokens (padding never gets here)."""

from __future__ import annotations

import torch


def expert_load(experts: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Share of the (token, choice) pairs that each expert receives.

    experts `[T, K]` int -> `[E]` float32 that sums to 1 (all zero when there is no token).
    """
    counts = torch.zeros(num_experts, device=experts.device).index_add_(
        0, experts.flatten(), torch.ones(experts.numel(), device=experts.device)
    )
    return counts / max(experts.numel(), 1)


def load_balancing_loss(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    """`E * sum_e load_e * mean_t p_te`: 1 when the load is even, up to `E` when one expert takes all.

    Fedus et al. 2021 (Switch Transformers), equation 4; for K > 1 the load counts every choice and still sums to 1.
    logits `[T, E]`, experts `[T, K]` -> scalar; the gradient flows through the probabilities only.
    """
    num_experts = logits.shape[-1]
    mean_probability = logits.softmax(dim=-1).sum(dim=0) / max(logits.shape[0], 1)
    return num_experts * torch.dot(expert_load(experts, num_experts), mean_probability)


def router_z_loss(logits: torch.Tensor) -> torch.Tensor:
    """`mean_t logsumexp(logits_t)^2`: keeps router logits small. Zoph et al. 2022 (ST-MoE), equation 5.

    logits `[T, E]` -> scalar.
    """
    return logits.logsumexp(dim=-1).square().sum() / max(logits.shape[0], 1)
