"""Freed memory stays with this process, where the C library can be told so.

The maps of a large patch come and go by tens of megabytes. By default glibc returns such blocks to the system at once
and gets them back page by page, zeroed: up to a third of a later click's time.
"""

from __future__ import annotations

import ctypes

# Of glibc's <malloc.h>: blocks from this size on are mapped by themselves; freed memory beyond that is given back.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT, MOST_KEPT = 512 * 2**20, 1024 * 2**20


def keep_freed_memory() -> bool:
    """Once per process is enough; returns whether there is a glibc to tell."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, MOST_KEPT))
