"""Products of torch where the experts of a group take unequal numbers of rows, against loops over single rows."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.kernels import experts as room
from momafuse.kernels.experts import apply_experts
from momafuse.kernels.gather import places_by_row
from momafuse.kernels.weights import GroupWeights
from momafuse.routing.plan import Plan
from tests.kernels.test_experts import gradients, loop
from tests.kernels.test_ops import OPS, counted_flops, stacks_of

D, ROWS = 5, 9
CASES = {
    "unequal": [[4, 1, 6], [2, 3]],
    "an empty one": [[0, 5, 2], [3, 0]],
    "one takes all": [[9, 0, 0], [0, 9]],
    "nothing at all": [[0, 0, 0], [0, 0]],
    "equal beside unequal": [[3, 3, 3], [1, 4]],
}


def case(counts, *, gated=True, padding=0, known=True, seed=0):
    """`counts`: rows of each expert of every group -> x, plan and weights, in float64; gates, too."""
    g = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(*size, generator=g, dtype=torch.float64).requires_grad_()

    sizes = [n for mine in counts for n in mine]
    used = sum(sizes)
    taken = [torch.randperm(ROWS, generator=g)[:n].sort().values for n in sizes]
    slots = torch.full((ROWS, len(sizes)), -1)
    for e, (first, rows) in enumerate(zip(torch.tensor([0, *sizes]).cumsum(0).tolist(), taken, strict=False)):
        slots[rows, e] = torch.arange(len(rows)) + first
    rows = torch.cat([*taken, torch.zeros(padding, dtype=torch.int64)])
    gates = torch.rand(used + padding, generator=g, dtype=torch.float64) * (torch.arange(used + padding) < used)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    plan = Plan(rows, offsets, gates.requires_grad_() if gated else None, slots, tuple(sizes) if known else None)
    stacks = [
        GroupWeights(randn(len(c), D, 4 + i), randn(len(c), D, 4 + i), randn(len(c), 4 + i, D)) for i, c in enumerate(counts)
    ]
    return randn(ROWS, D), plan, stacks


def judge(x, plan, groups, backend):
    y, expected = apply_experts(x, plan, groups, backend), loop(x, plan, groups)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    for mine, theirs in zip(gradients(y, x, plan, groups), gradients(expected, x, plan, groups), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["bmm", "auto", "reference"])
def test_unequal_sizes_agree_with_loops(backend, name, gated):
    judge(*case(CASES[name], gated=gated), backend)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["bmm", "auto"])
def test_on_a_cpu_sizes_are_read_from_the_plan(backend, name, gated, padding, monkeypatch):
    """And not by the reference, which would do, but slowly."""
    monkeypatch.setattr(room, "experts_reference", lambda *_: pytest.fail("the reference was asked"))
    judge(*case(CASES[name], gated=gated, padding=padding, known=False), backend)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, ROWS), min_size=1, max_size=4), min_size=1, max_size=3),
    padding=st.integers(0, 3),
    gated=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_sizes_agree_with_loops(counts, padding, gated, seed):
    judge(*case(counts, gated=gated, padding=padding, known=False, seed=seed), "auto")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 1, 2), (3, 5), tuple(range(6))], ids=str)
def test_frozen_stacks_get_no_gradient_and_the_others_theirs(frozen, known):
    x, plan, groups = case(CASES["an empty one"], known=known)
    leaves = [x, plan.weights, *stacks_of(groups)]
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    wanted = torch.autograd.grad(loop(x, plan, groups), leaves, direction)
    for i in frozen:
        stacks_of(groups)[i].requires_grad_(False)
    apply_experts(x, plan, groups, "bmm").backward(direction)
    for leaf, gradient in zip(leaves, wanted, strict=True):
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, gradient, rtol=1e-10, atol=1e-10)
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("name", CASES)
def test_the_op_keeps_to_the_rules_of_torch(name):
    x, plan, groups = case(CASES[name])
    by_row, starts = places_by_row(plan.slots, plan.rows.numel())
    args = (x, plan.rows, by_row, starts, plan.weights, stacks_of(groups), list(plan.sizes), None)
    torch.library.opcheck(OPS.experts_bmm.default, args)


@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_of_the_places(name):
    """Padding is no place: 9 products of D x F of each, forward and backward."""
    x, plan, groups = case(CASES[name], padding=4, known=False)
    ends = plan.offsets.tolist()
    sizes = [b - a for a, b in pairwise(ends)]
    widths = [g.gate.shape[2] for g in groups for _ in range(g.gate.shape[0])]
    assert counted_flops(apply_experts, x, plan, groups, "auto") == sum(
        9 * 2 * n * D * f for n, f in zip(sizes, widths, strict=True)
    )
