"""Which floating-point type to compute in."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedModel

from ..config import PRECISIONS
from ..errors import ConfigError


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 matrices natively (AVX-512 bf16 or AMX; a GPU that supports it)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 where the processor has it. Raises ConfigError for an unknown name."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} must be one of {PRECISIONS}")
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def in_precision(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model for evaluation in this precision: itself, or a copy where something has to change.

    Buffers such as rotary frequencies keep theirs, and so do weights packed into 4 bits.
    """
    if not model.training and all(p.dtype == dtype for p in model.parameters() if p.is_floating_point()):
        return model
    fast = copy.deepcopy(model).eval()
    for parameter in fast.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return fast
