"""The ops in Triton as torch sees them: schemas, fake tensors, autograd, frozen inputs, FLOPs, what is kept."""

from __future__ import annotations

import pytest
import torch

from momafuse.kernels.experts import apply_experts
from momafuse.kernels.linear import apply_linear
from momafuse.kernels.reference import experts_reference
from momafuse.routing.plan import Plan
from tests.kernels.test_ops import Zeros, counted_flops, stacks_of
from tests.kernels.triton.test_interpreted import agree, by_modality, leaves_of, ragged_case

OPS = torch.ops.momafuse
GROUPS = [(20, [9, 4]), (33, [7])]  # (width, rows of each expert)
D, T = 18, 12


def with_sizes(plan, sizes):
    return Plan(plan.rows, plan.offsets, plan.weights, plan.slots, sizes)


@pytest.mark.parametrize(("gated", "keep"), [(True, True), (False, False)])
def test_the_expert_op_keeps_to_the_rules_of_torch(gated, keep):
    x, plan, groups = ragged_case(GROUPS, D, T, gated=gated, padding=2)
    stacks = stacks_of(groups)
    stacks[0].requires_grad_(False)
    args = [x, plan.rows, plan.offsets, plan.weights, plan.slots, stacks, None, keep]
    if not keep:
        args = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
        args[5] = [s.detach() for s in stacks]
    torch.library.opcheck(OPS.experts_triton.default, tuple(args), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.slow
def test_the_expert_op_is_traced_and_differentiated():
    """Of equal widths: what a narrower group leaves of a kept buffer is never written, and two runs would differ there."""
    x, plan, groups = ragged_case([(20, [9, 4]), (20, [7])], D, T)
    args = (x, plan.rows, plan.offsets, plan.weights, plan.slots, stacks_of(groups), [9, 4, 7], True)
    torch.library.opcheck(OPS.experts_triton.default, args)


@pytest.mark.parametrize("gated", [True, False])
def test_the_backward_of_the_expert_op_keeps_to_them_too(gated):
    x, plan, groups = ragged_case(GROUPS, D, T, gated=gated)
    stacks = [w.detach() for w in stacks_of(groups)]
    weights = None if plan.weights is None else plan.weights.detach()
    y, (a, b) = OPS.experts_triton(x.detach(), plan.rows, plan.offsets, weights, plan.slots, stacks, None, True)
    needed = [True, False, True, False, True, True]
    args = (torch.ones_like(y), x.detach(), plan.rows, plan.offsets, weights, plan.slots, stacks, a, b, None, needed)
    torch.library.opcheck(OPS.experts_triton_backward.default, args, test_utils=("test_schema", "test_faketensor"))


def test_the_linear_op_keeps_to_the_rules_of_torch():
    x, plan, weights = by_modality((7, 0, 5), D, 20)
    weights[0].requires_grad_(False)
    args = (x, plan.rows, plan.offsets, weights, None)
    torch.library.opcheck(OPS.grouped_linear_triton.default, args, test_utils=("test_schema", "test_faketensor"))
    x, weights = x.detach(), [w.detach() for w in weights]
    args = (torch.ones(12, 20), x, plan.rows, plan.offsets, weights, None, [True, False, True])
    torch.library.opcheck(OPS.grouped_linear_triton_backward.default, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("learns", [(False, True, True), (True, False, False), (False, False, False)], ids=str)
def test_frozen_stacks_get_no_gradient_and_the_others_theirs(learns):
    x, plan, groups = ragged_case(GROUPS, D, T)
    direction = torch.linspace(-1, 1, x.numel()).view_as(x)
    expected = experts_reference(x, plan.rows, plan.offsets, plan.weights, groups)
    wanted = torch.autograd.grad(expected, leaves_of(x, plan, groups), direction)
    for w, learn in zip(groups[0], learns, strict=True):
        w.requires_grad_(learn)
    apply_experts(x, plan, groups, "triton").backward(direction)
    for leaf, gradient in zip(leaves_of(x, plan, groups), wanted, strict=True):
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, gradient, rtol=0, atol=2e-5)
        else:
            assert leaf.grad is None


def test_frozen_linear_maps_get_no_gradient():
    x, plan, weights = by_modality((7, 5), D, 20)
    weights[0].requires_grad_(False)
    apply_linear(x, plan, weights, "triton").sum().backward()
    assert weights[0].grad is None
    torch.testing.assert_close(weights[1].grad, x.detach()[plan.rows[7:]].sum(0).expand(20, D), rtol=0, atol=1e-5)


def test_flops_are_those_of_the_places():
    x, plan, groups = ragged_case(GROUPS, D, T)
    product_flops = 2 * D * (20 * 13 + 33 * 7)
    assert counted_flops(apply_experts, x, with_sizes(plan, (9, 4, 7)), groups, "triton") == 9 * product_flops
    groups[1].up.requires_grad_(False)
    frozen = 2 * D * 33 * 7
    assert counted_flops(apply_experts, x, with_sizes(plan, (9, 4, 7)), groups, "triton") == 9 * product_flops - frozen


def test_flops_of_sizes_on_the_device_are_a_bound():
    x, plan, groups = ragged_case(GROUPS, D, T, padding=3)
    assert counted_flops(apply_experts, x, plan, groups, "triton") == 9 * 2 * D * 33 * 23


@pytest.mark.parametrize("known", [True, False])
def test_linear_maps_count_two_flops_a_product_and_pass(known):
    x, plan, weights = by_modality((7, 0, 5), D, 20)
    plan = with_sizes(plan, (7, 0, 5) if known else None)
    assert counted_flops(apply_linear, x, plan, weights, "triton") == 3 * 2 * 12 * D * 20


def test_the_backward_fills_no_zeros_for_what_it_does_not_read():
    x, plan, groups = ragged_case(GROUPS, D, T, gated=False)
    y = apply_experts(x, plan, groups, "triton")
    with Zeros() as zeros:
        y.backward(torch.ones_like(y))
    assert zeros.elements == 0


def test_nothing_is_kept_without_gradients():
    x, plan, groups = ragged_case(GROUPS, D, T)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        apply_experts(x, plan, groups, "triton")
    wide = (20, 33)  # R places, the widest group's F
    assert kept.count(torch.Size(wide)) == 2, "a and b, and no other rows of places"
    assert all(shape != (20, D) for shape in kept), "neither gathered rows nor outputs of experts"
    with torch.no_grad():
        assert OPS.experts_triton(x, plan.rows, plan.offsets, plan.weights, plan.slots, stacks_of(groups), None, False)[1] == []
        assert not apply_experts(x, plan, groups, "triton").requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_numbers_that_are_not_multiplied_are_refused(dtype):
    """On a GPU bf16 is; Triton's interpreter would multiply it wrongly, without a word."""
    x, plan, groups = ragged_case(GROUPS, D, T, dtype=dtype)
    with pytest.raises(ValueError, match="float64" if dtype == torch.float64 else "interpreter"):
        apply_experts(x, plan, groups, "triton")


@pytest.mark.slow
def test_a_group_of_one_expert_beside_sixteen():
    agree(*ragged_case([(5, [3] * 16), (7, [10])], D, T))
