"""Divide the neurons of a dense FFN among experts by what they do on real text; the same text teaches the router.

A neuron's contribution to a token is `|h_j| * |down_j|` (its activation times the norm of its output column). The
neurons that contribute most on average are shared; the others are clustered so that those which contribute to the same
tokens lie in one expert, all experts of one size. Zhang et al. 2022 (MoEfication) cluster by co-activation, Pei et al.
2025 (CMoE) add shared neurons and balanced assignment; here contributions weigh the activations by what they write,
the router is a ridge regression onto the size of each expert's output, and experts that do not read a token are
replaced by their mean output.

Shapes: T tokens, D hidden size, F neurons, E routed experts, S shared experts, W = F / (E + S) neurons an expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..config import FFNLayout
from ..errors import ConfigError
from ..moe import MoE, SplitMoE
from .layout import DenseFFN
from .recording import inputs_of_real_tokens, real_tokens

MAX_TOKENS = 16_384
RIDGE = 1e-2
ROUNDS = 20
DIMENSIONS = 64


@torch.no_grad()
def split_init(moe: MoE, ffn: DenseFFN, tokens: torch.Tensor) -> None:
    """Fill the layer from a dense FFN and the hidden states `[T, D]` that reached it on real text."""
    assert isinstance(moe, SplitMoE)
    num_experts, num_shared = moe.experts.num_experts, ffn.up.shape[0] // moe.experts.down_proj.shape[2]
    num_shared -= num_experts
    inner = ffn.inner(tokens)
    shared, experts = divide(inner.abs() * ffn.down.norm(dim=0), num_experts, num_shared)
    write_neurons(moe, ffn, shared, experts)
    outputs = torch.stack([inner[:, mine] @ ffn.down[:, mine].T for mine in experts], dim=1)
    weight, bias = regress(tokens, outputs.norm(dim=2))
    scale = (tokens @ weight.T + bias).std().clamp_min(1e-6)
    moe.router.weight.copy_(weight / scale)
    assert moe.router.bias is not None
    moe.router.bias.copy_(bias / scale)
    chosen = moe.router(tokens).topk(moe.num_experts_per_tok, dim=-1).indices
    left_out = torch.ones(len(tokens), num_experts, device=tokens.device).scatter_(1, chosen, 0)
    means = torch.einsum("te,ted->ed", left_out, outputs) / left_out.sum(dim=0).clamp_min(1)[:, None]
    moe.experts.down_proj_bias.copy_(-means)


def divide(contribution: torch.Tensor, num_experts: int, num_shared: int) -> tuple[torch.Tensor, torch.Tensor]:
    """contribution `[T, F]` -> places of the shared neurons `[S * W]` and of each expert's `[E, W]`."""
    width = contribution.shape[1] // (num_experts + num_shared)
    by_size = contribution.mean(dim=0).argsort(descending=True)
    shared = by_size[: num_shared * width].sort().values
    rest = by_size[num_shared * width :].sort().values
    centred = contribution[:, rest] - contribution[:, rest].mean(dim=0)
    centred = centred / centred.norm(dim=0).clamp_min(1e-9)
    # neurons as points whose dot products are the correlations of their contributions, in few dimensions
    size = min(DIMENSIONS, *centred.shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, singular, right = torch.svd_lowrank(centred, q=size)
    points = nn.functional.normalize(right * singular, dim=1)
    owner = balanced_clusters(points, num_experts)
    return shared, torch.stack([rest[owner == expert] for expert in range(num_experts)])


def balanced_clusters(points: torch.Tensor, count: int) -> torch.Tensor:
    """k-means on unit vectors `[N, R]` with clusters of one size `N / count`; returns the cluster of each, `[N]`."""
    size = len(points) // count
    first = [0]
    while len(first) < count:  # start from points far from each other
        first.append(int((points @ points[first].T).max(dim=1).values.argmin()))
    centres, owner = points[first], None
    for _ in range(ROUNDS):
        new = assign_evenly(points @ centres.T, size)
        if owner is not None and bool((new == owner).all()):
            break
        owner = new
        centres = torch.stack([points[owner == cluster].mean(dim=0) for cluster in range(count)])
        centres = nn.functional.normalize(centres, dim=1)
    assert owner is not None
    return owner


def assign_evenly(likeness: torch.Tensor, size: int) -> torch.Tensor:
    """likeness `[N, C]` -> a cluster for each of N points, `[N]`, every cluster `size` points.

    Those with most to lose (first choice over second) choose first. An exact assignment was no better here, and takes
    minutes for an FFN of 3,072 neurons.
    """
    ranked = likeness.sort(dim=1, descending=True)
    choices = ranked.indices.tolist()
    room = [size] * likeness.shape[1]
    owner = torch.empty(len(likeness), dtype=torch.long)
    for point in (ranked.values[:, 1] - ranked.values[:, 0]).argsort().tolist():
        cluster = next(choice for choice in choices[point] if room[choice])
        room[cluster] -= 1
        owner[point] = cluster
    return owner.to(likeness.device)


def regress(tokens: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression of `target` `[T, E]` on tokens `[T, D]`: weight `[E, D]` and bias `[E]`."""
    mean, level = tokens.mean(dim=0), target.mean(dim=0)
    centred = tokens - mean
    gram = centred.T @ centred
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    weight = torch.linalg.solve(gram, centred.T @ (target - level)).T
    return weight, level - weight @ mean


def write_neurons(moe: SplitMoE, ffn: DenseFFN, shared: torch.Tensor, experts: torch.Tensor) -> None:
    """Copy the rows and columns of the dense FFN to where their neurons go; the output bias is kept once."""
    moe.neuron_permutation.copy_(torch.cat([shared, experts.flatten()]))
    rows = [ffn.up] if ffn.gate is None else [ffn.gate, ffn.up]
    moe.experts.in_proj.copy_(torch.cat([part[experts] for part in rows], dim=1))
    moe.experts.down_proj.copy_(ffn.down[:, experts].transpose(0, 1))
    if moe.shared is not None:
        moe.shared.in_proj.weight.copy_(torch.cat([part[shared] for part in rows]))
        moe.shared.down_proj.weight.copy_(ffn.down[:, shared])
    if moe.experts.in_proj_bias is not None and moe.output_bias is not None:
        biases = [ffn.up_bias] if ffn.gate is None else [ffn.gate_bias, ffn.up_bias]
        filled = [torch.zeros_like(ffn.up[:, 0]) if bias is None else bias for bias in biases]
        moe.experts.in_proj_bias.copy_(torch.cat([part[experts] for part in filled], dim=1))
        if moe.shared is not None:
            moe.shared.in_proj.bias.copy_(torch.cat([part[shared] for part in filled]))
        moe.output_bias.copy_(torch.zeros_like(ffn.down[:, 0]) if ffn.down_bias is None else ffn.down_bias)


@torch.no_grad()
def read_neurons(moe: SplitMoE) -> DenseFFN:
    """The dense FFN that all experts together are, its neurons in their old places."""
    experts, shared, order = moe.experts, moe.shared, moe.neuron_permutation.argsort()
    parts = 2 if experts.has_gate else 1

    def joined(stacked: torch.Tensor | None, of_shared: torch.Tensor | None) -> list[torch.Tensor | None]:
        if stacked is None:
            return [None] * parts
        pieces = [part.flatten(0, 1) for part in stacked.chunk(parts, dim=1)]
        if of_shared is not None:
            pieces = [torch.cat(pair) for pair in zip(of_shared.chunk(parts), pieces, strict=True)]
        return [piece[order] for piece in pieces]

    rows: Any = joined(experts.in_proj, None if shared is None else shared.in_proj.weight)
    biases = joined(experts.in_proj_bias, None if shared is None else shared.in_proj.bias)
    columns = experts.down_proj.transpose(1, 2).flatten(0, 1)
    if shared is not None:
        columns = torch.cat([shared.down_proj.weight.T, columns])
    gate, gate_bias = (rows[0], biases[0]) if parts == 2 else (None, None)
    down_bias = moe.output_bias
    return DenseFFN(rows[-1], biases[-1], columns[order].T, down_bias, gate, gate_bias, experts.act_fn, 0.0, 0.0)


def ffn_inputs(
    model: PreTrainedModel,
    layers: Sequence[nn.Module],
    layout: FFNLayout,
    batches: Sequence[Mapping[str, torch.Tensor]],
) -> list[torch.Tensor]:
    """What reaches the FFN of each layer on tokenised texts: hidden states of real tokens `[T, D]`, T up to 16,384.

    Raises ConfigError without texts.
    """
    if not any(real_tokens(batch).any() for batch in batches):
        raise ConfigError("init='split' looks at what neurons do on real text: give upcycle tokenised `texts`")
    modules = [layer.get_submodule(layout.bypass or layout.replace) for layer in layers]
    given = ({name: value.to(model.device) for name, value in batch.items() if name != "labels"} for batch in batches)
    return inputs_of_real_tokens(model, modules, given, MAX_TOKENS)
