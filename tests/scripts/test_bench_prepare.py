from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_prints_the_figures() -> None:
    command = [sys.executable, "scripts/bench_prepare.py", "--megabytes", "0.3", "--pictures", "96", "--rounds", "1"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    figures = json.loads(done.stdout)
    assert set(figures["pictures_per_second"]) == {"read", "encode", "judge", "all"}
    assert all(value > 0 for value in figures["pictures_per_second"].values())
    ratio = figures["text_tokens_per_second"] / figures["sentencepiece_tokens_per_second"]
    assert figures["text_share"] == pytest.approx(ratio, rel=0.01)
    assert figures["start_seconds"] > 0
