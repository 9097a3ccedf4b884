"""The kernels of Hopper in Triton's interpreter, against the reference in float64: whole tiles, whatever the sizes.

fp16 only: they are for 16 bits, and the interpreter multiplies bf16 wrongly. Tiles are 32 x 32 x 32, so widths are multiples.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.kernels.triton import bulk_launch
from momafuse.routing.plan import Plan
from tests.kernels.triton.test_interpreted import agree, ragged_case

CASES = {  # groups (width, rows of each expert), D, T
    "broken tiles": ([(64, [41, 18])], 32, 50),
    "an empty expert between others": ([(32, [17, 0, 33])], 64, 40),
    "one expert takes all": ([(32, [0, 35, 0])], 32, 35),
    "groups of unlike widths and numbers": ([(96, [20, 0, 18]), (32, [35])], 64, 36),
    "no place at all": ([(32, [0, 0])], 32, 5),
    "whole tiles": ([(32, [32, 64])], 64, 64),
    "one row": ([(32, [1]), (32, [0])], 32, 1),
}


@pytest.fixture(autouse=True)
def on_hopper(monkeypatch):
    monkeypatch.setattr(bulk_launch, "serves", lambda x, stacks: x.element_size() == 2)


@pytest.mark.parametrize("name", CASES)
def test_experts_agree_with_the_reference(name):
    agree(*ragged_case(*CASES[name], padding=5, dtype=torch.float16))


@pytest.mark.parametrize("sizes", [(17, 6, 9), (32, 64, 32), (32, 32, 40)], ids=str)
@pytest.mark.parametrize("gated", [True, False])
def test_sizes_that_the_host_knows_change_nothing(gated, sizes):
    x, plan, groups = ragged_case([(32, list(sizes[:2])), (64, [sizes[2]])], 32, 70, gated=gated, dtype=torch.float16)
    agree(x, Plan(plan.rows, plan.offsets, plan.weights, plan.slots, sizes), groups)


def test_frozen_stacks_get_no_gradient_and_others_theirs():
    x, plan, groups = ragged_case([(32, [20, 12]), (64, [9])], 32, 40, dtype=torch.float16)
    groups[0].gate.requires_grad_(False)
    groups[1].down.requires_grad_(False)
    y, plan_y = x, plan
    from momafuse.kernels.experts import apply_experts

    out = apply_experts(y, plan_y, groups, "triton")
    out.sum().backward()
    assert groups[0].gate.grad is None
    assert groups[1].down.grad is None
    assert groups[0].up.grad is not None
    assert groups[1].gate.grad is not None


def test_what_memory_held_before_reaches_nothing(monkeypatch):
    """Buffers are full of NaN when they are made, as any memory may be."""
    empty = torch.Tensor.new_empty

    def full_of_nan(self, *shape, **kwargs):
        made = empty(self, *shape, **kwargs)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", full_of_nan)
    real = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda x, **k: real(x, **k).fill_(torch.nan))
    agree(*ragged_case([(64, [41, 18]), (32, [7])], 32, 50, padding=5, dtype=torch.float16))


SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=3)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([32, 64]), SIZES), min_size=1, max_size=3), st.sampled_from([32, 64]), st.booleans())
def test_random_sizes(groups, d, gated):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_launch, "serves", lambda x, stacks: True)
        agree(*ragged_case(groups, d, 60, gated=gated, padding=3, dtype=torch.float16))
