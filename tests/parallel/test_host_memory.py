"""Freed memory that stays with the process is not zeroed again by the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from momafuse.parallel.host_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(1 << 22)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
keep_freed_memory()
for _ in range(5):  # the heap has to grow first, in one or several pieces
    faults()
print(usual, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library has no mallopt")
def test_a_large_tensor_finds_its_memory_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    usual, kept = map(int, done.stdout.split())
    assert usual > 4000  # 4 times 16 MiB in pages of 4 KiB, perhaps some of them large
    assert kept < usual / 10
