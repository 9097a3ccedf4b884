"""FlexAttention on a CPU, for tests: its own check refuses gradients there, and torch's plain ops compute them all the same."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import flex_attention as flex

from momafuse.kernels import attention


def on_cpu(patch: pytest.MonkeyPatch, block: int) -> None:
    """Every mask in blocks of `block` rows, traced and differentiated as on a GPU, and computed without its kernels."""
    compiled = torch.compile(flex.flex_attention, dynamic=False, backend="aot_eager")
    patch.setattr(flex, "_validate_device", lambda *_: None)
    patch.setattr(attention, "_compiled", lambda: compiled)
    patch.setattr(attention, "BLOCK", block)
    patch.setattr(attention, "sees_in_blocks", lambda *_: True)
