"""Ranks as srun starts them: without torchrun, rank 0 keeps the store that they meet in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import small_corpus, words  # noqa: F401 (a fixture)

TOP = Path(__file__).parents[2]


def ended(*run: str, ranks: int = 2) -> list[tuple[int, str]]:
    """Exit code and standard error of each rank."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    started = []
    for rank in range(ranks):
        names = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in names.items()}
        command = [sys.executable, "-m", "momafuse.train", "+experiment=moma_4t4i", *run]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=TOP, env=environment, **pipes))
    said = [process.communicate()[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.mark.slow
def test_a_mistake_that_all_ranks_find_is_said_once(small_corpus, run_root):  # noqa: F811
    """By rank 0, which lives until the others have seen that it does."""
    first, second = ended(*words(small_corpus, run_root), "trainer=cpu", "trainer.global_batch=4")
    assert first[0] == second[0] == 2
    assert first[1].startswith("momafuse: error: trainer.global_batch=4: 2 ranks with router.pool=4 need")
    assert second[1] == ""
