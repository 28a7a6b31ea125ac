"""What a program tells the allocator and torch, so that its memory stays where it should. Never called on import."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory instead of returning it; whether that was possible.

    By default every large tensor is mapped from the system, whose page faults cost a quarter of a training step and a
    third of a forward of all-MiniLM-L6-v2 here. It concerns the whole process, so only programs call it (the command
    line, `make demo`), never the library on import.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26))
    return all(mallopt(name, value) == 1 for name, value in settings)


def return_freed_memory() -> bool:
    """Give memory that is free now back to the system, which hands it out again when needed; whether there was any.

    Batches of ever new sizes leave holes that nothing fits into. A long job does this every thousand texts or so.
    """
    return platform.libc_ver()[0] == "glibc" and ctypes.CDLL(None).malloc_trim(0) == 1


def keep_few_kernels(count: int = 256) -> None:
    """Let torch keep that many compiled products, not one for each of the last 1,024 sizes, unless the user said so.

    It reads both variables at its first product. 1,024 are some 200 MiB of a traced all-MiniLM-L6-v2, 256 some 100.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(count))
