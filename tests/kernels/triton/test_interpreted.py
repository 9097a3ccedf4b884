"""The kernels in Triton's interpreter against loops and the reference: output and all gradients, in fp32 and fp16.

Tiles are small (32 x 32 x 32), so that a case of a few dozen rows has whole and broken tiles in every direction. Not bf16: the
interpreter multiplies it wrongly (test_launch.py).
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.kernels.experts import apply_experts
from momafuse.kernels.linear import apply_linear, linear_reference
from momafuse.kernels.reference import experts_reference
from momafuse.kernels.weights import GroupWeights
from momafuse.routing.plan import Plan

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}  # of the greatest number: sums of up to 70 products, each step rounded


def ragged_case(groups, d, t, *, gated=True, padding=0, dtype=torch.float32, seed=0):
    """groups: (width, rows of each expert) of every group -> x, a plan whose sizes only the device knows, weights."""
    g = torch.Generator().manual_seed(seed)

    def randn(*size):
        return (torch.randn(*size, generator=g) / size[-2] ** 0.5).to(dtype).requires_grad_()

    sizes = [n for _, counts in groups for n in counts]
    taken = [torch.randperm(t, generator=g)[:n].sort().values for n in sizes]
    used = sum(sizes)
    slots = torch.full((t, len(sizes)), -1)
    for e, rows in enumerate(taken):
        slots[rows, e] = torch.arange(len(rows)) + sum(sizes[:e])
    rows = torch.cat([*taken, torch.zeros(padding, dtype=torch.int64)])
    gates = torch.rand(used + padding, generator=g) * (torch.arange(used + padding) < used)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    plan = Plan(rows, offsets, gates.requires_grad_() if gated else None, slots, None)
    stacks = [GroupWeights(randn(len(c), d, f), randn(len(c), d, f), randn(len(c), f, d)) for f, c in groups]
    x = (torch.randn(t, d, generator=g)).to(dtype).requires_grad_()
    return x, plan, stacks


def leaves_of(x, plan, groups):
    return [x, *([] if plan.weights is None else [plan.weights]), *(w for g in groups for w in g)]


def in_double(x, plan, groups):
    """The same case in float64, where it is judged."""

    def double(t):
        return t.detach().double().requires_grad_()

    gates = None if plan.weights is None else double(plan.weights)
    doubled = Plan(plan.rows, plan.offsets, gates, plan.slots, plan.sizes)
    return double(x), doubled, [GroupWeights(*map(double, g)) for g in groups]


def agree(x, plan, groups, direction=None, backend="triton"):
    """Output and every gradient of the kernels, and of the reference in float64."""
    xd, pland, groupsd = in_double(x, plan, groups)
    y = apply_experts(x, plan, groups, backend)
    expected = experts_reference(xd, pland.rows, pland.offsets, pland.weights, groupsd)
    if direction is None:
        direction = torch.linspace(-1, 1, y.numel()).view_as(y)
    mine = torch.autograd.grad(y, leaves_of(x, plan, groups), direction.to(y.dtype), materialize_grads=True)
    wanted = [torch.zeros_like(leaf) for leaf in leaves_of(xd, pland, groupsd)]
    if expected.requires_grad:
        wanted = torch.autograd.grad(expected, leaves_of(xd, pland, groupsd), direction.double(), materialize_grads=True)
    for a, b in zip([y, *mine], [expected, *wanted], strict=True):
        greatest = b.abs().max().item() if b.numel() else 0
        torch.testing.assert_close(a.double(), b, rtol=0, atol=TOLERANCE[x.dtype] * max(1, greatest))


CASES = {  # groups (width, rows of each expert), D, T
    "broken tiles in every direction": ([(37, [41, 18])], 35, 50),
    "an empty expert between others": ([(20, [17, 0, 9])], 18, 30),
    "one expert takes all": ([(20, [0, 35, 0])], 18, 35),
    "groups of unlike widths and numbers": ([(33, [20, 0, 18]), (50, [35])], 24, 36),
    "no place at all": ([(20, [0, 0])], 18, 5),
    "whole tiles": ([(32, [32, 64])], 64, 64),
    "one tile": ([(16, [16])], 16, 16),
}
IN_HALF = ("broken tiles in every direction", "groups of unlike widths and numbers")


@pytest.mark.parametrize("name", CASES)
def test_experts_agree_with_the_reference(name):
    agree(*ragged_case(*CASES[name], padding=5))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in IN_HALF else pytest.mark.slow) for n in CASES])
def test_experts_agree_with_the_reference_in_half_precision(name):
    agree(*ragged_case(*CASES[name], padding=5, dtype=torch.float16))


@pytest.mark.parametrize("gated", [True, False])
def test_sizes_that_the_host_knows_change_nothing(gated):
    x, plan, groups = ragged_case([(20, [17, 6]), (33, [9])], 18, 20, gated=gated)
    agree(x, Plan(plan.rows, plan.offsets, plan.weights, plan.slots, (17, 6, 9)), groups)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("sizes", [(13, 27), (0, 40), (19, 0)])
def test_one_place_a_row_is_written_where_the_row_stands(sizes, known):
    """A plan by modality; with (19, 0) some rows have no place, and get 0."""
    x, plan, groups = ragged_case([(20, [sizes[0]]), (33, [sizes[1]])], 18, 40, gated=False)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(1))[: sum(sizes)]
    slots = torch.full((40,), -1).scatter(0, rows, torch.arange(len(rows)))
    x = x.detach().requires_grad_()
    agree(x, Plan(rows, plan.offsets, None, slots.unsqueeze(1), sizes if known else None), groups)


SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=3)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(1, 70), SIZES), min_size=1, max_size=3),
    d=st.integers(1, 70),
    padding=st.integers(0, 20),
    gated=st.booleans(),
    half=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_experts_agree_with_the_reference_whatever_the_sizes(groups, d, padding, gated, half, seed):
    dtype = torch.float16 if half else torch.float32
    agree(*ragged_case(groups, d, 60, gated=gated, padding=padding, dtype=dtype, seed=seed))


def test_rows_and_gradients_need_not_be_contiguous():
    _, plan, groups = ragged_case([(20, [17, 6])], 18, 20)
    wide = torch.randn(18, 40).t()[::2].requires_grad_()
    assert wide.stride() == (2, 40)
    agree(wide, plan, groups, torch.randn(18, 20).t())
    agree(torch.randn(20, 30)[:, 5:23].requires_grad_(), plan, groups, torch.tensor(1.0).expand(20, 18))


def test_padding_is_never_read():
    """What the gates, the rows and the memory hold beyond the last offset reaches nothing."""
    x, plan, groups = ragged_case([(20, [17, 6])], 18, 20)
    y = apply_experts(x, plan, groups, "triton")
    wanted = torch.autograd.grad(y.sum(), leaves_of(x, plan, groups))
    gates = torch.cat([plan.weights.detach(), torch.full((9,), float("nan"))]).requires_grad_()
    padded = Plan(torch.cat([plan.rows, torch.full((9,), 10**6)]), plan.offsets, gates, plan.slots, None)
    again = apply_experts(x, padded, groups, "triton")
    assert torch.equal(again, y)
    mine = list(torch.autograd.grad(again.sum(), leaves_of(x, padded, groups)))
    assert not mine[1][-9:].any()
    mine[1] = mine[1][:-9]
    assert all(torch.equal(a, b) for a, b in zip(mine, wanted, strict=True))


def test_results_are_the_same_every_time():
    x, plan, groups = ragged_case([(20, [17, 6, 20])], 18, 20)
    first = apply_experts(x, plan, groups, "triton")
    wanted = torch.autograd.grad(first.sum(), leaves_of(x, plan, groups))
    for _ in range(3):
        y = apply_experts(x, plan, groups, "triton")
        assert torch.equal(y, first)
        mine = torch.autograd.grad(y.sum(), leaves_of(x, plan, groups))
        assert all(torch.equal(a, b) for a, b in zip(mine, wanted, strict=True))


def by_modality(sizes, d, n, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    t = sum(sizes)
    rows = torch.randperm(t, generator=g)
    plan = Plan(rows, torch.tensor([0, *sizes]).cumsum(0), None, rows.argsort().unsqueeze(1), None)
    weights = [(torch.randn(n, d, generator=g) / d**0.5).to(dtype).requires_grad_() for _ in sizes]
    return torch.randn(t, d, generator=g).to(dtype).requires_grad_(), plan, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", [(41, 18), (5, 0, 33)], ids=str)
def test_linear_maps_agree_with_the_reference(sizes, dtype):
    x, plan, weights = by_modality(sizes, 19, 37, dtype)
    doubles = [t.detach().double().requires_grad_() for t in (x, *weights)]
    y = apply_linear(x, plan, weights, "triton")
    expected = linear_reference(doubles[0], plan.rows, plan.offsets, doubles[1:])
    direction = torch.linspace(-1, 1, y.numel()).view_as(y)
    mine = torch.autograd.grad(y, [x, *weights], direction.to(dtype))
    wanted = torch.autograd.grad(expected, doubles, direction.double(), materialize_grads=True)
    for a, b in zip([y, *mine], [expected, *wanted], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=TOLERANCE[dtype] * max(1, b.abs().max().item()))
