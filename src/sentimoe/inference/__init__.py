"""Texts in, probabilities out."""

from .engine import Engine
from .precision import PRECISIONS, compute_dtype
from .windows import LONG_TEXTS, make_windows

__all__ = ["LONG_TEXTS", "PRECISIONS", "Engine", "compute_dtype", "make_windows"]
