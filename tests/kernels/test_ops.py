"""The custom ops as torch sees them: schemas, fake tensors, autograd, frozen inputs, FLOPs."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from momafuse.kernels.experts import apply_experts
from momafuse.kernels.gather import places_by_row
from momafuse.kernels.linear import apply_linear
from momafuse.routing import routers  # noqa: F401  registers momafuse::top_rows
from tests.kernels import test_experts, test_linear
from tests.kernels.test_experts import loop

OPS = torch.ops.momafuse
SHAPES = [(2, 5, 3), (1, 4, 6), (2, 3, 0)]  # (experts, width, places of each) of three groups
SIZES = [c for e, _, c in SHAPES for _ in range(e)]
D, ROWS = 4, 6


def stacks_of(groups):
    return [w for g in groups for w in g]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_expert_op_keeps_to_the_rules_of_torch(gated, frozen):
    x, plan, groups = test_experts.make_case(SHAPES, D, ROWS, seed=0, gated=gated)
    stacks = stacks_of(groups)
    if frozen:
        for w in stacks[::2]:
            w.requires_grad_(False)
    by_row, starts = places_by_row(plan.slots, plan.rows.numel())
    args = (x, plan.rows, by_row, starts, plan.weights, stacks, SIZES, None)
    torch.library.opcheck(OPS.experts_bmm.default, args)


def test_the_expert_op_without_a_plan_keeps_to_the_rules_of_torch():
    x, _, groups = test_experts.make_case([(1, 5, ROWS)], D, ROWS, seed=0)
    torch.library.opcheck(OPS.experts_bmm.default, (x, None, None, None, None, stacks_of(groups), [ROWS], None))


def test_the_expert_op_by_modality_keeps_to_the_rules_of_torch():
    """Every row in one place: no beginnings of rows."""
    x, _, groups = test_experts.make_case([(1, 5, 2), (1, 3, 4)], D, ROWS, seed=0)
    rows = torch.tensor([5, 0, 1, 4, 2, 3])
    args = (x, rows, rows.argsort(), None, None, stacks_of(groups), [2, 4], None)
    torch.library.opcheck(OPS.experts_bmm.default, args)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_linear_op_keeps_to_the_rules_of_torch(frozen):
    x, plan, weights, _ = test_linear.make_case([4, 0, 3], D, 6)
    weights[0].requires_grad_(not frozen)
    torch.library.opcheck(OPS.grouped_linear.default, (x, plan.rows, plan.slots[:, 0], weights, list(plan.sizes)))


@pytest.mark.parametrize("gated", [True, False])
def test_the_backward_of_the_expert_op_keeps_to_them_too(gated):
    x, plan, groups = test_experts.make_case(SHAPES, D, ROWS, seed=0, gated=gated)
    by_row, starts = places_by_row(plan.slots, plan.rows.numel())
    stacks = [w.detach() for w in stacks_of(groups)]
    weights = None if plan.weights is None else plan.weights.detach()
    kept = OPS.experts_bmm(x.detach(), plan.rows, by_row, starts, weights, stacks, SIZES, None)[1]
    ab, xs, ys = kept[:6], kept[6], kept[7] if gated else None
    needed = [True, False, True] * 3
    args = (torch.ones_like(x).detach(), xs, ys, plan.rows, by_row, starts, weights, stacks, ab, SIZES, None, needed)
    torch.library.opcheck(OPS.experts_bmm_backward.default, args)


def test_the_backward_of_the_linear_op_keeps_to_them_too():
    x, plan, weights, _ = test_linear.make_case([4, 0, 3], D, 6)
    matrices, places = [w.detach() for w in weights], plan.slots[:, 0]
    y, xs = OPS.grouped_linear(x.detach(), plan.rows, places, matrices, list(plan.sizes))
    args = (torch.ones_like(y), xs, plan.rows, places, matrices, list(plan.sizes), [True, False, True])
    torch.library.opcheck(OPS.grouped_linear_backward.default, args)


@pytest.mark.parametrize("count", [0, 3, 7])
def test_the_choice_of_rows_keeps_to_the_rules_of_torch(count):
    torch.library.opcheck(OPS.top_rows.default, (torch.randn(2, 3, 7), count))


@pytest.mark.parametrize("rows_learn", [True, False], ids=["rows_learn", "rows_fixed"])
@pytest.mark.parametrize("learns", list(product([True, False], repeat=3)), ids=str)
@pytest.mark.parametrize("backend", ["reference", "bmm"])
def test_frozen_stacks_get_no_gradient_and_the_others_theirs(backend, learns, rows_learn):
    """Gate, up and down of the first group are frozen one by one; the second group learns, and so do the gates."""
    x, plan, groups = test_experts.make_case([(2, 5, 3), (1, 4, 5)], D, ROWS, seed=1)
    leaves = [x, plan.weights, *stacks_of(groups)]
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    wanted = torch.autograd.grad(loop(x, plan, groups), leaves, direction)
    x.requires_grad_(rows_learn)
    for w, learn in zip(groups[0], learns, strict=True):
        w.requires_grad_(learn)
    apply_experts(x, plan, groups, backend).backward(direction)
    for leaf, gradient in zip(leaves, wanted, strict=True):
        if leaf.requires_grad:
            tolerance = 1e-6 if leaf.dtype == torch.float32 else 1e-10  # gates are fp32: their gradients are rounded once
            torch.testing.assert_close(leaf.grad, gradient, rtol=tolerance, atol=tolerance)
        else:
            assert leaf.grad is None


def counted_flops(function, *args) -> int:
    """Of forward and backward."""
    with FlopCounterMode(display=False) as counter:
        function(*args).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("backend", ["reference", "bmm"])
def test_experts_count_two_flops_a_product_and_pass(backend):
    """A place goes through three D x F products forward; backward through each to its row and to its weight."""
    x, plan, groups = test_experts.make_case(SHAPES, D, ROWS, seed=0)
    product_flops = sum(2 * e * c * D * f for e, f, c in SHAPES)
    assert counted_flops(apply_experts, x, plan, groups, backend) == 3 * product_flops * 3


def test_one_expert_for_every_row_counts_the_same():
    x, _, groups = test_experts.make_case([(1, 5, ROWS)], D, ROWS, seed=0)
    assert counted_flops(apply_experts, x, None, groups, "bmm") == 9 * 2 * ROWS * D * 5


def test_frozen_stacks_save_the_flops_of_their_gradients():
    x, plan, groups = test_experts.make_case(SHAPES, D, ROWS, seed=0)
    groups[0].gate.requires_grad_(False)
    groups[1].up.requires_grad_(False)
    groups[1].down.requires_grad_(False)
    first, second = (2 * e * c * D * f for e, f, c in SHAPES[:2])
    assert counted_flops(apply_experts, x, plan, groups, "bmm") == 9 * (first + second) - first - 2 * second


@pytest.mark.parametrize("backend", ["reference", "bmm"])
def test_linear_maps_count_two_flops_a_product_and_pass(backend):
    x, plan, weights, _ = test_linear.make_case([4, 0, 3], D, 6)
    assert counted_flops(apply_linear, x, plan, weights, backend) == 3 * 2 * 7 * D * 6


def test_frozen_linear_maps_save_the_flops_of_their_gradients():
    x, plan, weights, _ = test_linear.make_case([4, 3], D, 6)
    weights[0].requires_grad_(False)
    assert counted_flops(apply_linear, x, plan, weights, "bmm") == 2 * D * 6 * (3 * 7 - 4)


class Zeros(TorchDispatchMode):
    """Counts the elements of tensors that are filled with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.name().split(".")[0] in ("aten::zeros", "aten::zeros_like", "aten::new_zeros", "aten::zero_"):
            self.elements += result.numel()
        return result


@pytest.mark.parametrize("op", ["experts", "one expert", "linear"])
def test_the_backward_fills_no_zeros_for_what_it_does_not_read(op):
    """What the forward keeps for the backward is an output of the op, and autograd makes zeros for outputs without gradient
    if it is not told otherwise: as much memory as was kept."""
    if op == "linear":
        x, plan, weights, _ = test_linear.make_case([4, 3], D, 6)
        y = apply_linear(x, plan, weights, "bmm")
    else:
        x, plan, groups = test_experts.make_case([(1, 5, ROWS)], D, ROWS, seed=0)
        y = apply_experts(x, plan if op == "experts" else None, groups, "bmm")
    with Zeros() as zeros:
        y.backward(torch.ones_like(y))
    assert zeros.elements == 0
