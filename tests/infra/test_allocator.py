"""Memory that a worker has freed goes back to the system."""

import ctypes
import subprocess
import sys

import pytest

from infra import allocator

# As a worker's fetches do: large blocks among small ones that stay, after a large one was freed.
_LEFT_RESIDENT = f"""
import sys
import psutil
from {allocator.__name__} import return_freed_memory

if sys.argv[1] == "returned":
    return_freed_memory()
large = bytearray(300_000)
del large
before = psutil.Process().memory_info().rss
large, small = [], []
for _ in range(200):
    large.append(bytearray(b"x" * 200_000))
    small.append(bytearray(2_000))
large.clear()
print(psutil.Process().memory_info().rss - before)
"""


def _left_resident(how: str) -> float:
    """Return the megabytes that a process has more than before, of 40 that it has freed."""
    done = subprocess.run([sys.executable, "-c", _LEFT_RESIDENT, how], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1e6


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_blocks_go_back_though_small_ones_lie_between_them() -> None:
    """By default they stay."""
    assert _left_resident("returned") < 5
    assert _left_resident("kept") > 20
