"""What a run says that it computed on."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from momafuse.parallel import machine


def test_the_processor_is_named_as_the_kernel_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nmodel name\t: EPYC 7B13\nprocessor\t: 1\nmodel name\t: EPYC 7B13\n")
    monkeypatch.setattr(machine, "PROCESSOR", facts)
    assert machine.processor() == "EPYC 7B13"
    facts.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")  # as on ARM
    assert machine.processor() == (platform.processor() or platform.machine())
    facts.unlink()
    assert machine.processor() == (platform.processor() or platform.machine())


def test_a_gpu_is_named_and_has_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert machine.machine(torch.device("cuda")) == {"device": "NVIDIA H100"}
