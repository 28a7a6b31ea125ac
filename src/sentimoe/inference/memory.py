"""Keep freed memory in the process."""

from __future__ import annotations

import ctypes
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
