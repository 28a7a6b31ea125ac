"""Which floating-point type to compute in."""

from __future__ import annotations

import torch

from ..errors import ConfigError

PRECISIONS = ("auto", "bfloat16", "float32")


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
