from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

LOCAL_SLURM = Path(__file__).parents[2] / "scripts" / "local_slurm.sh"
NOT_POSSIBLE = 3  # exit code of local_slurm.sh


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real Slurm of two nodes on this machine; the environment for its commands."""
    folder = tmp_path_factory.mktemp("slurm", numbered=True)
    started = subprocess.run(["bash", str(LOCAL_SLURM), "start", str(folder)], capture_output=True, text=True)
    if started.returncode == NOT_POSSIBLE:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    yield os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run(["bash", str(LOCAL_SLURM), "stop", str(folder)], check=True)
