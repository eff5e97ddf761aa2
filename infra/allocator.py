"""The C library's allocator: whether memory that a process has freed goes back to the system."""

import ctypes
from typing import Final

__all__ = ["return_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3), from malloc.h of glibc
_BYTES: Final = 65_536


def return_freed_memory() -> None:
    """Have blocks of 64 KiB and more mapped one by one, so that each goes back as it is freed. Without glibc: nothing.

    By default glibc raises that size to that of the largest block freed so far, up to 32 MiB. What a worker fetches, 1
    MB a partition, then lies on the heap between small blocks that stay: 127 MB are resident at full drain, and 118
    this way. The size is then fixed (https://man7.org/linux/man-pages/man3/mallopt.3.html).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _BYTES)
        mallopt(_TRIM_THRESHOLD, _BYTES)
