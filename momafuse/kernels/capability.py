"""Where the kernels of our own run: on which devices, and on which numbers."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def triton_serves(x: Tensor) -> bool:
    """Whether our kernels take x: on a GPU that they run on, in a dtype that they compute."""
    return x.dtype != torch.float64 and x.is_cuda and has_triton(x.device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_triton(device: torch.device) -> bool:
    """Whether our kernels run there: on a GPU from compute capability 8.0, or on a CPU in the interpreter."""
    return _found_triton(device)


@cache
def _found_triton(device: torch.device) -> bool:
    if find_spec("triton") is None:
        return False
    if device.type != "cuda":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return torch.cuda.get_device_capability(device) >= (8, 0)
