"""Every backend of the expert op against loops over single rows: output and all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.kernels.experts import apply_experts
from momafuse.kernels.gather import places_by_row, sum_places
from momafuse.kernels.weights import GroupWeights
from momafuse.routing.plan import Plan, make_plan

BACKENDS = ["reference", "bmm"]


def make_case(shapes, d, rows, seed, gated=True, dtype=torch.float64):
    """shapes: (experts, width, places of each expert) per group; a row is taken at most once by an expert."""
    g = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(*size, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

    groups = [GroupWeights(randn(e, d, f), randn(e, d, f), randn(e, f, d)) for e, f, _ in shapes]
    x = randn(rows, d)
    sizes = [c for e, _, c in shapes for _ in range(e)]
    taken = torch.cat([torch.randperm(rows, generator=g)[:c].sort().values for c in sizes])
    columns = [sum(e for e, _, _ in shapes[:i]) for i in range(len(shapes))]
    gates = torch.rand(len(taken), generator=g, dtype=torch.float64).float().requires_grad_() if gated else None
    return x, make_plan(taken, [(e, c) for e, _, c in shapes], gates, columns, len(sizes), rows), groups


def loop(x, plan, groups):
    """The definition, one place at a time, in float64."""
    y = [torch.zeros(x.shape[1], dtype=torch.float64) for _ in range(len(x))]
    bounds, e = plan.offsets.tolist(), 0
    for g in groups:
        for i in range(g.gate.shape[0]):
            for place in range(bounds[e], bounds[e + 1]):
                row = int(plan.rows[place])
                a, b = x[row].double() @ g.gate[i].double(), x[row].double() @ g.up[i].double()
                out = (a * torch.sigmoid(a) * b) @ g.down[i].double()
                y[row] = y[row] + (out if plan.weights is None else plan.weights[place].double() * out)
            e += 1
    return torch.stack(y)


def gradients(y, x, plan, groups):
    leaves = [x, *([] if plan.weights is None else [plan.weights]), *(w for g in groups for w in g)]
    if not y.requires_grad:  # the loop over no places at all
        return [torch.zeros_like(leaf) for leaf in leaves]
    direction = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)
    return [
        torch.zeros_like(leaf) if g is None else g
        for leaf, g in zip(leaves, torch.autograd.grad(y, leaves, direction, allow_unused=True), strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(0, 6)), min_size=1, max_size=3),
    d=st.integers(1, 5),
    gated=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_bmm_and_reference_agree_with_loops(shapes, d, gated, seed):
    x, plan, groups = make_case(shapes, d, 6, seed, gated)
    expected = loop(x, plan, groups)
    wanted = gradients(expected, x, plan, groups)
    for backend in BACKENDS:
        y = apply_experts(x, plan, groups, backend)
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
        for mine, theirs in zip(gradients(y, x, plan, groups), wanted, strict=True):
            tolerance = 1e-6 if mine.dtype == torch.float32 else 1e-10  # gates are fp32: their gradients are rounded once
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_expert_takes_all_and_another_none(backend):
    x, plan, groups = make_case([(1, 5, 6), (2, 5, 0)], 4, 6, seed=0)
    y = apply_experts(x, plan, groups, backend)
    torch.testing.assert_close(y, loop(x, plan, groups), rtol=1e-10, atol=1e-10)
    y.sum().backward()
    assert groups[1].gate.grad is not None
    assert not groups[1].gate.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_plan_one_expert_takes_every_row(backend):
    x, plan, groups = make_case([(1, 5, 6)], 4, 6, seed=1, gated=False)
    torch.testing.assert_close(apply_experts(x, None, groups, backend), loop(x, plan, groups), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_a_non_contiguous_input(backend):
    _, plan, groups = make_case([(2, 5, 3)], 4, 6, seed=2)
    wide = torch.randn(4, 6, dtype=torch.float64).t().requires_grad_()
    assert not wide.is_contiguous()
    torch.testing.assert_close(apply_experts(wide, plan, groups, backend), loop(wide, plan, groups), rtol=1e-10, atol=1e-10)


def test_bf16_is_no_worse_than_one_rounding_per_product():
    x, plan, groups = make_case([(2, 64, 24), (1, 64, 16)], 64, 48, seed=3, dtype=torch.bfloat16)
    scaled = [GroupWeights(*(w.detach() * 64**-0.5 for w in g)) for g in groups]
    y = apply_experts(x, plan, scaled, "bmm").double()
    exact = loop(x, plan, scaled)
    error = (y - exact).norm() / exact.norm()
    assert error < 3 * 2.0**-8  # three products and the sum, each rounded to 8 bits


def test_results_are_the_same_every_time():
    x, plan, groups = make_case([(4, 32, 40), (4, 32, 24)], 32, 64, seed=4, dtype=torch.float32)
    first = apply_experts(x, plan, groups, "bmm")
    wanted = gradients(first, x, plan, groups)
    for _ in range(5):
        y = apply_experts(x, plan, groups, "bmm")
        assert torch.equal(y, first)
        assert all(torch.equal(a, b) for a, b in zip(gradients(y, x, plan, groups), wanted, strict=True))


def test_permuting_experts_changes_nothing():
    x, plan, groups = make_case([(3, 5, 4)], 4, 6, seed=5)
    order = [2, 0, 1]
    rows = plan.rows.view(3, 4)[order].flatten()
    gates = plan.weights.detach().view(3, 4)[order].flatten()
    permuted = make_plan(rows, [(3, 4)], gates, [0], 3, 6)
    swapped = [GroupWeights(*(w[order] for w in groups[0]))]
    torch.testing.assert_close(apply_experts(x, permuted, swapped), apply_experts(x, plan, groups), rtol=1e-12, atol=1e-12)


def test_bmm_reads_sizes_from_the_plan_on_a_cpu_alone():
    x, plan, groups = make_case([(2, 5, 3)], 4, 6, seed=6)
    ragged = Plan(plan.rows, plan.offsets, plan.weights, plan.slots, None)
    torch.testing.assert_close(apply_experts(x, ragged, groups, "bmm"), loop(x, plan, groups), rtol=1e-10, atol=1e-10)
    on_gpu = [GroupWeights(*(w.to("meta") for w in g)) for g in groups]
    with pytest.raises(ValueError, match="only the device"):
        apply_experts(x.to("meta"), ragged, on_gpu, "bmm")
    torch.testing.assert_close(apply_experts(x, ragged, groups, "reference"), loop(x, plan, groups), rtol=1e-10, atol=1e-10)


@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_sum_places_agrees_with_a_loop(rows, columns, seed):
    g = torch.Generator().manual_seed(seed)
    filled = torch.rand(rows, columns, generator=g) < 0.6
    r = int(filled.sum())
    slots = torch.full((rows, columns), -1)
    slots[filled] = torch.randperm(r, generator=g)
    ys, w = torch.randn(r, 3, generator=g), torch.rand(r, generator=g)
    by_row, starts = places_by_row(slots, r)
    expected = torch.zeros(rows, 3)
    for row in range(rows):
        for place in slots[row].tolist():
            if place >= 0:
                expected[row] += w[place] * ys[place]
    torch.testing.assert_close(sum_places(ys, by_row, starts, w), expected)
