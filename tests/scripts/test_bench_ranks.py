"""The interface of scripts/bench_ranks.py: JSON with the ratio to one process, what a save costs and what a rank sends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "scripts/bench_ranks.py", "moma_2t2i", "--size", "micro", "--rounds", "2", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_it_prints_the_documented_json():
    done = bench("--precision", "fp32", "--set", "trainer.global_batch=8")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ranks"] == 2
    assert result["ratio"] > 0
    sent = result["sent_mb"]
    assert sent["_allgather_base_"] > sent["_reduce_scatter_base_"] > 0  # weights twice, gradients once
    assert result["dtype"] == result["reduce_dtype"].replace("fp32", "float32") == "float32"


def test_a_mistake_is_one_line():
    done = bench("--set", "trainer.global_batch=4")
    assert done.returncode
    ours = [line for line in done.stderr.splitlines() if line.startswith("momafuse:")]
    assert ours == ["momafuse: error: trainer.global_batch=4: 2 ranks need a multiple of 8"]
