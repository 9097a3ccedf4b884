"""scripts/bench_rotary.py: what it times without a GPU is torch's, and the rows have their figures."""

from __future__ import annotations

import bench_rotary
import timing
import torch

from momafuse.models.context import rotary_table


def test_both_of_torchs_are_timed_and_equal():
    x = torch.randn(1, 16, 4, 8).requires_grad_()
    scales = [torch.rand(8).requires_grad_() for _ in "qk"]
    position = torch.arange(16).view(1, -1)
    members = bench_rotary.members_of(2, scales, rotary_table(position, 8, 10_000.0), torch.zeros_like(position))
    assert set(members) == {"torch", "torch compiled"}
    found = timing.both_ways({"torch": lambda: members["torch"](x)}, [x, *scales], rounds=2)
    assert min(found["torch"]) > 0
    assert [y.shape for y in members["torch"](x)] == [(1, 2, 16, 8), (1, 2, 16, 8)]
