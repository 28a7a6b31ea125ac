"""Texts in, probabilities out."""

from .engine import Engine
from .memory import keep_freed_memory
from .precision import PRECISIONS, compute_dtype
from .windows import LONG_TEXTS, make_windows

__all__ = ["LONG_TEXTS", "PRECISIONS", "Engine", "compute_dtype", "keep_freed_memory", "make_windows"]
