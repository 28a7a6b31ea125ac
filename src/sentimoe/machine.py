"""What a result depends on beside data and settings: the processor and the versions of packages."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("sentimoe", "torch", "transformers", "accelerate", "peft", "datasets", "scikit-learn", "numpy")

MODEL = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")  # in /proc/cpuinfo, of x86 and of ARM


def versions(*more: str) -> dict[str, str]:
    """Versions of everything that a result depends on. more: other packages that count."""
    return {name: version(name) for name in (*PACKAGES, *more)} | {"python": platform.python_version()}


def hardware() -> dict[str, Any]:
    """Processor, what it multiplies bfloat16 and 8-bit matrices with, cores and accelerator of this machine."""
    found: dict[str, str] = {}
    for line in _cpuinfo():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    flags = found.get("flags", "").split()
    return {
        "processor": found.get("model name") or platform.processor(),
        "model": ", ".join(f"{name} {found[name]}" for name in MODEL if name in found),
        "bfloat16": [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags],
        "int8": [flag for flag in ("amx_int8", "avx512_vnni", "avx_vnni") if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
