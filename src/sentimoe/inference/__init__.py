"""Texts in, probabilities out."""

from .engine import BACKENDS, Engine, in_precision, position_limit
from .exported import export, is_exported, load_exported
from .memory import keep_few_kernels, keep_freed_memory, return_freed_memory
from .openvino import Bare, OpenVINOClassifier, padded_probe
from .precision import PRECISIONS, compute_dtype
from .windows import LONG_TEXTS, make_windows

__all__ = [
    "BACKENDS",
    "LONG_TEXTS",
    "PRECISIONS",
    "Bare",
    "Engine",
    "OpenVINOClassifier",
    "compute_dtype",
    "export",
    "in_precision",
    "is_exported",
    "keep_few_kernels",
    "keep_freed_memory",
    "load_exported",
    "make_windows",
    "padded_probe",
    "position_limit",
    "return_freed_memory",
]
