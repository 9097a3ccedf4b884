"""An import holds one tensor at a time, whatever the size of the model: the peak is read from the system."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.exchange import sparse_files

BASE = 0.5e9  # bytes: torch and what else is imported
PEAK = """
import sys
from momafuse.import_ import main
main(sys.argv[1:])
status = open("/proc/self/status").read()  # not getrusage's, which begins with what the parent held at the fork
print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
"""
SMALL = sparse_files.SEVEN | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 40,
    "vq_config": {"base_channels": 32},
}


def peak_of_import(folder: Path) -> int:
    """Bytes resident at the most, what was read of the file and lies in the page cache included."""
    words = [f"from={folder}", f"root={folder.parent / 'runs'}", "name=run"]
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.splitlines()[-1])


pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc to read the peak from")


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    size = sparse_files.write(tmp_path / "theirs", SMALL)
    assert size > 1.5e9
    largest = 65_536 * 1024 * 2
    assert peak_of_import(tmp_path / "theirs") < BASE + 4 * largest


ROWS = """
import resource, torch
from momafuse.checkpoint.huggingface.importing import with_fresh_rows
rows = torch.empty(2**15, 4096, dtype=torch.bfloat16).normal_()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = with_fresh_rows(rows, 2**15 + 64, "embedding.weight", 0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, before * 1024, rows.nbytes, float(made[-64:].float().std()))
"""


def test_rows_are_added_beside_one_copy_of_those_there() -> None:
    done = subprocess.run([sys.executable, "-c", ROWS], capture_output=True, text=True, check=True)
    peak, before, rows, deviation = map(float, done.stdout.split())
    assert peak < before + 1.5 * rows  # in fp32 they would be two
    assert deviation == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_seven_billion(tmp_path: Path) -> None:
    size = sparse_files.write(tmp_path / "theirs", sparse_files.SEVEN)
    assert size > 13e9
    start = time.perf_counter()
    peak = peak_of_import(tmp_path / "theirs")
    print(f"{size / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s, peak {peak / 1e9:.2f} GB")
    assert peak < 2e9
