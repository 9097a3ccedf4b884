"""scripts/gpu_check.sh and the page that it makes, as far as they go without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
ROW = {"dim": 512, "ffn": 1408, "rows": 4096, "groups": 2, "experts": 4, "skew": 0.0, "dtype": "bfloat16"}
ROW |= {"forward_ms": 1.0, "backward_ms": 2.0, "ratio_to_products": 1.3}
ROW |= {"layer_ratio_to_dense": None, "layer_ratio_to_products": None}
STEP = {"seconds": 0.5, "ratio": 1.0, "blocks_ratio": 1.0, "tokens_per_second": 1000, "tflops": 200.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    env = os.environ | {"PYTHON": sys.executable}
    run = subprocess.run(["sh", "scripts/gpu_check.sh"], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("gpu_check: error: torch finds no CUDA device")


@pytest.mark.parametrize(("word", "parts", "minutes"), [("tests", 3, 4), ("speed", 10, 5)])
def test_the_parts_of_a_word_take_so_many_minutes_at_most(word, parts, minutes):
    script = (REPOSITORY / "scripts/gpu_check.sh").read_text()
    body = script.partition(f"{word}() {{\n")[2].partition("\n}")[0]
    limits = [int(line.split()[2]) for line in body.splitlines() if line.startswith("  part ")]
    assert len(limits) == parts
    assert sum(limits) <= 60 * minutes


def test_what_it_does_not_know_is_answered_with_its_help():
    run = subprocess.run(["sh", "scripts/gpu_check.sh", "fast"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stdout.startswith("All tests and benchmarks that need a GPU")


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path):
    rows = [ROW | {"backend": "triton", "ratio_to_dense": 1.2}, ROW | {"backend": "grouped_mm", "ratio_to_dense": 1.1}]
    (tmp_path / "experts.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "step_90m.txt").write_text("a warning\n" + json.dumps({"dense": STEP, "dtype": "bfloat16"}))
    rotary = {"size": "90m", "member": "in one", "forward_ms": 0.1, "backward_ms": 0.2, "gb_per_second": 1000.0}
    (tmp_path / "rotary.txt").write_text(json.dumps({"rows": [rotary]}))
    (tmp_path / "first_step.txt").write_text(json.dumps({"seconds": 12.5, "overrides": []}))
    kernels = [{"kernel": "gemm", "ms": 3.25, "count": 4}, {"kernel": "softmax", "ms": 1.0, "count": 2}]
    (tmp_path / "profile.txt").write_text(json.dumps({"dense": kernels}))
    (tmp_path / "tests.txt").write_text("...\n3 passed in 1.00s\n")
    (tmp_path / "step_435m.txt").write_text("still compiling\n")
    for part, code in {
        "experts": 0,
        "rotary": 0,
        "first_step": 0,
        "profile": 0,
        "step_90m": 0,
        "tests": 0,
        "step_435m": 124,
    }.items():
        (tmp_path / f"{part}.code").write_text(f"{code}\n")
        (tmp_path / f"{part}.txt").touch()
    command = [sys.executable, "scripts/gpu_report.py", tmp_path, "My GPU", "--results", tmp_path]
    subprocess.run(command, cwd=REPOSITORY, check=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    page = (tmp_path / "gpu_my_gpu.md").read_text()
    assert "3 passed in 1.00s" in page
    assert "| 512 | 1408 | 4 | 0.0 | grouped_mm | 1.0 | 2.0 |" in page
    assert "- D 512, F 1408, 4 experts, skew 0.0: grouped_mm 1.1 against 1.2" in page
    assert "| 90m | in one | 0.1 | 0.2 | 1000.0 |" in page
    assert "- second start: 12.5 s" in page
    assert "### dense: 4.2 ms of the device" in page
    assert "| 3.25 | 4 | `gemm` |" in page
    assert "| dense | 0.5 | 1.0 | 1.0 | 1000 | 1.00 | 1.0 | 200.0 |" in page
    assert "not measured (exit code 124): ['still compiling']" in page
    assert "compute-sanitizer: not run" in page
    assert json.loads((tmp_path / "gpu_my_gpu.json").read_text())["step_90m"]["json"]["dense"] == STEP
