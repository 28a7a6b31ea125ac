"""How the experts are run. Every backend computes the same function; `reference` is the one to read.

A backend takes experts, tokens `[T, D]`, chosen experts `[T, K]` and weights `[T, K]` (float32), and returns `[T, D]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from .experts import Experts

ExpertsBackend = Callable[["Experts", torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def reference(experts: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Slow and obvious: for every choice and every expert, run the expert on its tokens and add the weighted result."""
    output = torch.zeros_like(tokens)
    for choice in range(chosen.shape[1]):
        for expert in range(experts.num_experts):
            mine = chosen[:, choice] == expert
            in_bias = None if experts.in_proj_bias is None else experts.in_proj_bias[expert]
            out_bias = experts.down_proj_bias[expert] if experts.has_bias else None
            hidden = experts.activate(F.linear(tokens[mine], experts.in_proj[expert], in_bias))
            result = F.linear(hidden, experts.down_proj[expert], out_bias)
            output[mine] += (result * weights[mine, choice, None]).to(output.dtype)
    return output


def sorted_loop(experts: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sort the (token, choice) pairs by expert, run each expert once on its contiguous rows, put the rows back.

    The sum over the choices of a token is a reshape, not a scatter: deterministic, and in float32.
    """
    num_tokens, k = chosen.shape
    pairs = chosen.flatten()
    order = pairs.argsort(stable=True)
    counts = torch.bincount(pairs, minlength=experts.num_experts).tolist()
    # unbind, not indexing: its backward is one stack instead of E full-size zero tensors that are added up
    in_weights, down_weights = experts.in_proj.unbind(0), experts.down_proj.unbind(0)
    none = [None] * experts.num_experts
    in_biases = none if experts.in_proj_bias is None else experts.in_proj_bias.unbind(0)
    down_biases = experts.down_proj_bias.unbind(0) if experts.has_bias else none
    results = []
    for expert, rows in enumerate(tokens[order // k].split(counts)):
        hidden = experts.activate(F.linear(rows, in_weights[expert], in_biases[expert]))
        results.append(F.linear(hidden, down_weights[expert], down_biases[expert]))
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    per_choice = torch.cat(results)[back].view(num_tokens, k, tokens.shape[-1])
    return (per_choice * weights.unsqueeze(-1)).sum(dim=1).to(per_choice.dtype)


EXPERTS_BACKENDS: dict[str, ExpertsBackend] = {"reference": reference, "sorted": sorted_loop}
