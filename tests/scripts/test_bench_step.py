"""The interface of scripts/bench_step.py: JSON with the ratios to dense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def test_it_prints_the_documented_json():
    command = [sys.executable, "scripts/bench_step.py", "moma_2t2i", "--size", "micro", "--rounds", "2", "--precision", "fp32"]
    command += ["--accumulate", "3"]
    result = json.loads(subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout)
    assert result["dense"]["ratio"] == result["dense"]["blocks_ratio"] == 1.0
    assert result["accumulate"] == 3
    tokens = 3 * 4 * 256
    assert result["moma_2t2i"]["seconds"] * result["moma_2t2i"]["tokens_per_second"] == pytest.approx(tokens, rel=0.02)
    assert result["moma_2t2i"]["tokens_per_second"] > 0
    assert result["moma_2t2i"]["tflops"] > 0
    assert result["dtype"] == "float32"


def test_a_mistake_is_one_line():
    command = [sys.executable, "scripts/bench_step.py", "moma_9t9i"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode
    assert "Traceback" not in result.stderr
    assert "moma_9t9i" in result.stderr
