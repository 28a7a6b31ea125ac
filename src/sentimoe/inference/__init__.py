"""Texts in, probabilities out."""

from .compressed import certificate_of, is_compressed, load_compressed, made_elsewhere, save_compressed
from .compressed_export import export_compressed
from .conversion import Comparison, ExportWrapper, exportable, padded_probe
from .domain_folder import (
    about_domain,
    domain_names,
    load_routed,
    remove_domain,
    seen_places,
)
from .engine import BACKENDS, Engine
from .exits import ExitHead, StagedClassifier, softmax
from .exported import export, is_exported, load_exported
from .lengths import position_limit
from .memory import keep_few_kernels, keep_freed_memory, return_freed_memory
from .openvino import OpenVINOClassifier
from .precision import PRECISIONS, compute_dtype, in_precision
from .routed import BASE, RoutedClassifier
from .windows import Windows, check_offsets, make_windows

__all__ = [
    "BACKENDS",
    "BASE",
    "PRECISIONS",
    "Comparison",
    "Engine",
    "ExitHead",
    "ExportWrapper",
    "OpenVINOClassifier",
    "RoutedClassifier",
    "StagedClassifier",
    "Windows",
    "about_domain",
    "certificate_of",
    "check_offsets",
    "compute_dtype",
    "domain_names",
    "export",
    "export_compressed",
    "exportable",
    "in_precision",
    "is_compressed",
    "is_exported",
    "keep_few_kernels",
    "keep_freed_memory",
    "load_compressed",
    "load_exported",
    "load_routed",
    "made_elsewhere",
    "make_windows",
    "padded_probe",
    "position_limit",
    "remove_domain",
    "return_freed_memory",
    "save_compressed",
    "seen_places",
    "softmax",
]
