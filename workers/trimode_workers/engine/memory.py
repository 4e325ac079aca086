"""Keeps the allocator from giving memory back between two operations.

Belongs here: process-wide memory settings of an engine. By default glibc returns each large buffer to the system as
it is freed; an engine asks for the same buffers again within microseconds, and pays for every page twice.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # from glibc's malloc.h
_LARGEST_ON_HEAP = 32 * 2**20
"""Bytes; glibc refuses a higher threshold. Larger buffers are still mapped one by one."""


def keep_freed_memory() -> bool:
    """Reuse freed buffers instead of returning them. False where the allocator is not glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST_ON_HEAP), (_TRIM_THRESHOLD, 2**30), (_TOP_PAD, _LARGEST_ON_HEAP))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
