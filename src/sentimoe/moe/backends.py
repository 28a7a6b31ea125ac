"""How the experts are run. Every backend computes the same function; `reference` is the one to read.

A backend takes experts, tokens `[T, D]`, chosen experts `[T, K]` and weights `[T, K]` (float32; None: all 1), and
returns `[T, D]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from .grouped import Groups, group_rows, unstack

if TYPE_CHECKING:
    from .experts import Experts

ExpertsBackend = Callable[["Experts", torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def reference(
    experts: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Slow and obvious: every expert reads every token, with weight 0 where it was not chosen.

    No size depends on data, so this is also what `torch.compile` traces.
    """
    counted = torch.ones_like(chosen, dtype=torch.float32) if weights is None else weights
    weight = counted.new_zeros(len(tokens), experts.num_experts).scatter(1, chosen, counted)  # [T, E]
    output = torch.zeros_like(tokens)
    for expert in range(experts.num_experts):
        in_bias = None if experts.in_proj_bias is None else experts.in_proj_bias[expert]
        out_bias = experts.down_proj_bias[expert] if experts.has_down_bias else None
        projected = F.linear(tokens, experts.in_proj[expert], in_bias)
        hidden = experts.activate(*projected.chunk(2 if experts.has_gate else 1, dim=-1))
        result = F.linear(hidden, experts.down_proj[expert], out_bias)
        output = output + (result * weight[:, expert, None]).to(output.dtype)
    return output


def sorted_loop(
    experts: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Sort the (token, choice) pairs by expert, run each expert once on its contiguous rows, put the rows back.

    Under autocast it computes in the autocast precision, like a linear layer. Each token gathers its own rows, nothing
    is scattered: deterministic. First derivatives only.
    """
    device = tokens.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
    groups = group_rows(chosen, experts.num_experts)
    rows = tokens.to(dtype).index_select(0, groups.source)
    way = _with_gradient if torch.is_grad_enabled() else _without_gradient
    return way(experts, rows, groups, weights, chosen.shape)


def _with_gradient(
    experts: Experts, rows: torch.Tensor, groups: Groups, weights: torch.Tensor | None, pairs: torch.Size
) -> torch.Tensor:
    """The sum over the choices of a token is a reshape, in float32."""
    dtype, parts = rows.dtype, 2 if experts.has_gate else 1
    in_weights = unstack(experts.in_proj, experts.num_experts, parts, dtype)
    in_biases = unstack(experts.in_proj_bias, experts.num_experts, parts, dtype)
    down_weights = unstack(experts.down_proj, experts.num_experts, 1, dtype)
    down_biases = unstack(experts.down_proj_bias if experts.has_down_bias else None, experts.num_experts, 1, dtype)
    results = []
    for expert, group in enumerate(rows.split(groups.sizes)):
        projected = [F.linear(group, w, b) for w, b in zip(in_weights[expert], in_biases[expert], strict=True)]
        results.append(F.linear(experts.activate(*projected), down_weights[expert][0], down_biases[expert][0]))
    per_choice = torch.cat(results).index_select(0, groups.place)
    if pairs[1] == 1:  # the weight is 1 in any precision
        return per_choice if weights is None else per_choice * weights.to(dtype)
    per_choice = per_choice.view(*pairs, rows.shape[-1])
    if weights is None:
        return per_choice.sum(dim=1)
    return (per_choice * weights.unsqueeze(-1)).sum(dim=1).to(dtype)


def _without_gradient(
    experts: Experts, rows: torch.Tensor, groups: Groups, weights: torch.Tensor | None, pairs: torch.Size
) -> torch.Tensor:
    """Each expert writes where its rows were; gathering and summing a token's rows is one pass over memory."""
    dtype, parts = rows.dtype, 2 if experts.has_gate else 1
    in_proj, down_proj = experts.in_proj.to(dtype), experts.down_proj.to(dtype)
    in_bias = None if experts.in_proj_bias is None else experts.in_proj_bias.to(dtype)
    down_bias = experts.down_proj_bias.to(dtype) if experts.has_down_bias else None
    for expert, group in enumerate(rows.split(groups.sizes)):
        biases = [None] * parts if in_bias is None else in_bias[expert].chunk(parts)
        projected = [F.linear(group, w, b) for w, b in zip(in_proj[expert].chunk(parts), biases, strict=True)]
        hidden, down = experts.activate(*projected).to(dtype), down_proj[expert].T
        if down_bias is None:
            torch.mm(hidden, down, out=group)
        else:
            torch.addmm(down_bias[expert], hidden, down, out=group)
    place = groups.place.view(pairs)
    if weights is None:
        return F.embedding_bag(place, rows, mode="sum")
    return F.embedding_bag(place, rows, mode="sum", per_sample_weights=weights.to(dtype))


def gathered(
    experts: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """For export: no branch or size depends on the data, and rows only move by gathers (scatters are slow elsewhere).

    Runs sparsely in what it is exported to: each expert reads the rows that chose it.
    """
    k, pairs = len(chosen.unbind(dim=1)), chosen.reshape(-1)  # a plain number, even while tracing
    group = [(pairs == expert).nonzero().squeeze(1) for expert in range(experts.num_experts)]
    parts, results = 2 if experts.has_gate else 1, []
    for expert, rows in enumerate(group):
        in_bias = [None] * parts if experts.in_proj_bias is None else experts.in_proj_bias[expert].chunk(parts)
        out_bias = experts.down_proj_bias[expert] if experts.has_down_bias else None
        read = tokens.index_select(0, rows if k == 1 else rows // k)
        weight = experts.in_proj[expert].chunk(parts)
        hidden = experts.activate(*(F.linear(read, w, b) for w, b in zip(weight, in_bias, strict=True)))
        results.append(F.linear(hidden, experts.down_proj[expert], out_bias))
    order = torch.cat(group)
    place = torch.zeros_like(order).scatter(0, order, torch.arange(order.shape[0], device=order.device)).view(-1, k)
    per_row = torch.cat(results)
    output = torch.zeros_like(tokens)
    for choice in range(k):
        result = per_row.index_select(0, place[:, choice])
        output = output + (result if weights is None else (result * weights[:, choice, None]).to(output.dtype))
    return output


def grouped(experts: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """For a GPU: all experts in one grouped matrix product a projection; nothing waits for the processor.

    On a processor it is correct, and slower than the sorted loop. Raises ValueError for sizes that are no multiples of
    8: the kernel reads 16 bytes at once.
    """
    widths = (tokens.shape[-1], *experts.in_proj.shape[1:], *experts.down_proj.shape[1:])
    if any(width % 8 for width in widths):
        raise ValueError(f"experts_backend='grouped' needs sizes that are multiples of 8, not {widths}; use 'sorted'")
    if not len(tokens):  # the kernel wants a row
        return sorted_loop(experts, tokens, chosen, weights)
    device, k = tokens.device.type, chosen.shape[1]
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
    pairs = chosen.flatten()
    order = pairs.argsort(stable=True)
    sizes = F.one_hot(pairs, experts.num_experts).sum(0)
    owner, ends = pairs[order], sizes.cumsum(0).to(torch.int32)
    rows = tokens.to(dtype).index_select(0, order // k)
    projected = F.grouped_mm(rows, experts.in_proj.to(dtype).transpose(1, 2), offs=ends)
    if experts.in_proj_bias is not None:
        projected = projected + experts.in_proj_bias.to(dtype)[owner]
    # some activations widen what they are given
    hidden = experts.activate(*projected.chunk(2 if experts.has_gate else 1, dim=-1)).to(dtype)
    result = F.grouped_mm(hidden.contiguous(), experts.down_proj.to(dtype).transpose(1, 2), offs=ends)
    if experts.has_down_bias:
        result = result + experts.down_proj_bias.to(dtype)[owner]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    per_choice = result.index_select(0, place).view(*chosen.shape, -1)
    return (per_choice if weights is None else per_choice * weights.unsqueeze(-1)).sum(dim=1).to(dtype)


EXPERTS_BACKENDS: dict[str, ExpertsBackend] = {
    "reference": reference,
    "sorted": sorted_loop,
    "gathered": gathered,
    "grouped": grouped,
}
