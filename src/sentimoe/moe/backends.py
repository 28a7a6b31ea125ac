"""How the experts are run. Every backend computes the same function; `reference` is the one to read.

A backend takes experts, tokens `[T, D]`, chosen experts `[T, K]` and weights `[T, K]` (float32; None: all 1), and
returns `[T, D]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from .grouped import group_rows, unstack

if TYPE_CHECKING:
    from .experts import Experts

ExpertsBackend = Callable[["Experts", torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def reference(
    experts: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Slow and obvious: for every choice and every expert, run the expert on its tokens and add the weighted result."""
    output = torch.zeros_like(tokens)
    for choice in range(chosen.shape[1]):
        for expert in range(experts.num_experts):
            mine = chosen[:, choice] == expert
            in_bias = None if experts.in_proj_bias is None else experts.in_proj_bias[expert]
            out_bias = experts.down_proj_bias[expert] if experts.has_down_bias else None
            projected = F.linear(tokens[mine], experts.in_proj[expert], in_bias)
            hidden = experts.activate(*projected.chunk(2 if experts.has_gate else 1, dim=-1))
            result = F.linear(hidden, experts.down_proj[expert], out_bias)
            output[mine] += (result if weights is None else result * weights[mine, choice, None]).to(output.dtype)
    return output


def sorted_loop(
    experts: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Sort the (token, choice) pairs by expert, run each expert once on its contiguous rows, put the rows back.

    Under autocast it computes in the autocast precision, like a linear layer. The sum over the choices of a token is a
    reshape, not a scatter: deterministic, and in float32. First derivatives only.
    """
    device = tokens.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
    groups = group_rows(chosen, experts.num_experts)
    rows = tokens.to(dtype).index_select(0, groups.source)
    parts = 2 if experts.has_gate else 1
    in_weights = unstack(experts.in_proj, experts.num_experts, parts, dtype)
    in_biases = unstack(experts.in_proj_bias, experts.num_experts, parts, dtype)
    down_weights = unstack(experts.down_proj, experts.num_experts, 1, dtype)
    down_biases = unstack(experts.down_proj_bias if experts.has_down_bias else None, experts.num_experts, 1, dtype)
    results = []
    for expert, mine in enumerate(rows.split(groups.sizes)):
        projected = [F.linear(mine, w, b) for w, b in zip(in_weights[expert], in_biases[expert], strict=True)]
        results.append(F.linear(experts.activate(*projected), down_weights[expert][0], down_biases[expert][0]))
    per_choice = torch.cat(results).index_select(0, groups.place)
    if chosen.shape[1] == 1:  # the weight is 1 in any precision
        return per_choice if weights is None else per_choice * weights.to(dtype)
    per_choice = per_choice.view(*chosen.shape, tokens.shape[-1])
    if weights is None:
        return per_choice.sum(dim=1)
    return (per_choice * weights.unsqueeze(-1)).sum(dim=1).to(dtype)


EXPERTS_BACKENDS: dict[str, ExpertsBackend] = {"reference": reference, "sorted": sorted_loop}
