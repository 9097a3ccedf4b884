"""What a run computes on, as far as its seconds depend on it: processor or GPU, and threads. No host names."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

PROCESSOR = Path("/proc/cpuinfo")


def machine(device: torch.device) -> dict[str, str | int]:
    """`device` as its maker names it; `threads` that a CPU's products are shared out among."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    return {"device": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}", "threads": torch.get_num_threads()}


def processor() -> str:
    """The model's name where the kernel tells it, as Linux on x86 does, else the architecture."""
    lines = PROCESSOR.read_text(encoding="utf-8").splitlines() if PROCESSOR.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in names if name), platform.processor() or platform.machine())
