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
ROW |= {"forward_ms": 1.0, "backward_ms": 2.0, "layer_ratio_to_dense": None}
STEP = {"seconds": 0.5, "ratio": 1.0, "blocks_ratio": 1.0, "tokens_per_second": 1000, "tflops": 200.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    env = os.environ | {"PYTHON": sys.executable}
    run = subprocess.run(["sh", "scripts/gpu_check.sh"], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("gpu_check: error: torch finds no CUDA device")


def test_its_parts_take_less_than_nine_minutes():
    script = (REPOSITORY / "scripts/gpu_check.sh").read_text()
    limits = [int(line.split()[2]) for line in script.replace("  part ", "part ").splitlines() if line.startswith("part ")]
    assert len(limits) == 9
    assert sum(limits) + 20 <= 540
    compiling = int(script.partition("timeout $((")[2].partition(" ")[0])
    assert compiling <= sum(limits[:2]), "it runs beside the first two"


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path):
    rows = [ROW | {"backend": "triton", "ratio_to_dense": 1.2}, ROW | {"backend": "grouped_mm", "ratio_to_dense": 1.1}]
    (tmp_path / "experts.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "step_90m.txt").write_text("a warning\n" + json.dumps({"dense": STEP, "dtype": "bfloat16"}))
    rotary = {"size": "90m", "member": "in one", "forward_ms": 0.1, "backward_ms": 0.2, "gb_per_second": 1000.0}
    (tmp_path / "rotary.txt").write_text(json.dumps({"rows": [rotary]}))
    order = {"experiment": "mot", "dtype": "bfloat16", "difference": 0.01, "blocks_ms": [2.0, 1.0], "blocks_ratio": 0.5}
    order |= {"attention_ms": [0.2, 0.1], "attention_ratio": 0.5, "mask_ms": 0.3}
    (tmp_path / "order.json").write_text(json.dumps({"rows": [order]}))
    (tmp_path / "tests.txt").write_text("...\n3 passed in 1.00s\n")
    (tmp_path / "step_435m.txt").write_text("still compiling\n")
    for part, code in {"experts": 0, "rotary": 0, "order": 0, "step_90m": 0, "tests": 0, "step_435m": 124}.items():
        (tmp_path / f"{part}.code").write_text(f"{code}\n")
        (tmp_path / f"{part}.txt").touch()
    command = [sys.executable, "scripts/gpu_report.py", tmp_path, "My GPU", "--results", tmp_path]
    subprocess.run(command, cwd=REPOSITORY, check=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    page = (tmp_path / "gpu_my_gpu.md").read_text()
    assert "3 passed in 1.00s" in page
    assert "| 512 | 1408 | 4 | 0.0 | grouped_mm | 1.0 | 2.0 |" in page
    assert "- D 512, F 1408, 4 experts, skew 0.0: grouped_mm 1.1 against 1.2" in page
    assert "| 90m | in one | 0.1 | 0.2 | 1000.0 |" in page
    assert "| mot | 2.0, 1.0 | 0.5 | 0.2, 0.1 | 0.5 | 0.3 |" in page
    assert "| dense | 0.5 | 1.0 | 1.0 | 1000 | 1.00 | 1.0 | 200.0 |" in page
    assert "not measured (exit code 124): ['still compiling']" in page
    assert "compute-sanitizer: not run" in page
    assert json.loads((tmp_path / "gpu_my_gpu.json").read_text())["step_90m"]["json"]["dense"] == STEP
