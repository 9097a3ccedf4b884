"""scripts/check_torch.sh as far as it goes without another torch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "scripts/check_torch.sh", *words]
    return subprocess.run(command, cwd=REPOSITORY, env=os.environ | env, capture_output=True, text=True, check=False)


def test_help_is_its_first_lines():
    help_ = run("--help")
    assert help_.returncode == 0
    assert help_.stdout.startswith("Runs the fast tests beside another torch")
    assert run().returncode == run("newest").returncode == 2
    assert run().stderr == help_.stdout


def test_a_version_that_cannot_be_had_is_one_line_and_leaves_nothing():
    found = run("0.0.1", TORCH_INDEX="http://127.0.0.1:9/simple", PIP_RETRIES="0")
    assert found.returncode == 1
    assert "check_torch: error: torch 0.0.1 cannot be installed" in found.stderr
    assert not (REPOSITORY / ".torch/0.0.1").exists()
