"""Texts in, probabilities out."""

from .conversion import Comparison, ExportWrapper, padded_probe
from .engine import BACKENDS, Engine
from .exported import export, is_exported, load_exported
from .lengths import position_limit
from .memory import keep_few_kernels, keep_freed_memory, return_freed_memory
from .openvino import OpenVINOClassifier
from .precision import PRECISIONS, compute_dtype, in_precision
from .windows import check_offsets, make_windows

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Comparison",
    "Engine",
    "ExportWrapper",
    "OpenVINOClassifier",
    "check_offsets",
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
