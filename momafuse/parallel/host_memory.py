"""On a CPU: memory that one step frees stays with the process for the next.

glibc gives large blocks back to the system as soon as they are free and asks for new ones, which the kernel zeroes page by
page: a step at nano size touched 100,000 new pages, a tenth of its time (docs/log.md, 2026-11-25). The peak is the same.
Does nothing where the C library has no `mallopt`; memory of a GPU is torch's own to keep.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """For the whole process, from now on."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)  # no block of its own for a large tensor
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # what is free at the end of the heap stays
