"""What a model costs: parameters that are active for a token, floating-point operations of a forward or a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..upcycle import moe_layers

aten = torch.ops.aten


def active_parameters(model: nn.Module) -> int:
    """Parameters that one token meets: all of them less the experts that did not read it.

    Embeddings count whole, as in the usual parameter counts. Of `E` experts a token meets `K`.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    for layer in moe_layers(model):
        size = sum(parameter.numel() for parameter in layer.experts.parameters())
        total -= size * (layer.experts.num_experts - layer.num_experts_per_tok) // layer.experts.num_experts
    return total


def count_flops(model: nn.Module, call: Callable[[], Any]) -> int:
    """Floating-point operations (2 per multiply-add) of the matrix products and attention inside `call()`.

    Counted as they run, so sparse experts count the rows that they read; the experts of `model` run through the
    gathered form meanwhile, because the fast loop fills groups up. torch's counter takes the attention kernel of the
    CPU for free, and that of torch 2.11 refuses heads of queries that share keys and values; the formula of all kernels
    is registered here (two products of B H L L D, four more and the scores again backward).
    """
    experts = [layer.base_experts for layer in moe_layers(model)]
    backends = [each.backend for each in experts]
    for each in experts:
        each.backend = "gathered"
    try:
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
            call()
    finally:
        for each, backend in zip(experts, backends, strict=True):
            each.backend = backend
    return counter.get_total_flops()


def peak_memory_mib() -> float:
    """Largest resident memory of this process since it started, in MiB (Linux).

    Not `ru_maxrss`: a new process inherits that of the one that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def _attention(query_shape, key_shape, value_shape, *args, **kwargs) -> int:
    """`[B, H, L, D]` of the queries: keys and values may have fewer heads, which several heads of queries share."""
    batch, heads, length, size = query_shape
    return 2 * batch * heads * length * key_shape[-2] * (size + value_shape[-1])


def _attention_backward(grad_shape, query_shape, key_shape, value_shape, *args, **kwargs) -> int:
    batch, heads, length, size = query_shape
    return 2 * batch * heads * length * key_shape[-2] * (3 * size + 2 * value_shape[-1])


FORWARD = (
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
)
BACKWARD = (
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
    aten._scaled_dot_product_flash_attention_backward,
    aten._scaled_dot_product_efficient_attention_backward,
    aten._scaled_dot_product_cudnn_attention_backward,
)
ATTENTION = dict.fromkeys(FORWARD, _attention) | dict.fromkeys(BACKWARD, _attention_backward)
