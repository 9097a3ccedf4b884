"""What holds for every test: one thread per process, no network, no W&B account, runs in a temporary folder."""

from __future__ import annotations

import os

# Before torch is imported, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU; the tests that are marked gpu want 0

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
# Times vary on a shared machine; a failure prints how to repeat it.
hypothesis.settings.register_profile("momafuse", deadline=None, print_blob=True)
hypothesis.settings.load_profile("momafuse")

LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0", ""}


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """A connection to another machine fails at once; process groups and W&B's own service stay on this one."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in LOCAL:
            raise AssertionError(f"a test wants to reach {address[0]}: tests run without a network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test that leaves torch with more threads would change the last digits of every later one."""
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(1)
    assert left == 1, f"the test left torch with {left} threads"


@pytest.fixture
def run_root(tmp_path: Path) -> Path:
    """An empty folder for `run.root`."""
    root = tmp_path / "runs"
    root.mkdir()
    return root
