"""One matrix for each modality against loops over single rows: output and all gradients, both backends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from momafuse.kernels.linear import apply_linear
from momafuse.routing.plan import Plan, make_plan

BACKENDS = ["reference", "bmm", "auto"]


def make_case(
    sizes: list[int], d: int, n: int, seed: int = 0, dtype=torch.float64
) -> tuple[Tensor, Plan, list[Tensor], list[int]]:
    """x (T, D), the by-modality plan, M matrices (N, D), and the modality of each row: `sizes[m]` rows of modality m."""
    g = torch.Generator().manual_seed(seed)
    modality = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    modality = modality[torch.randperm(len(modality), generator=g)]
    plan = make_plan(modality.argsort(stable=True), [(1, c) for c in sizes], None, [0] * len(sizes), 1, len(modality))
    x = torch.randn(len(modality), d, generator=g, dtype=torch.float64).to(dtype)
    weights = [torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for _ in sizes]
    return x.requires_grad_(), plan, weights, modality.tolist()


def loop(x: Tensor, weights: list[Tensor], modality: list[int]) -> Tensor:
    return torch.stack([weights[m] @ row for m, row in zip(modality, x, strict=True)])


def gradients(y: Tensor, x: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return torch.autograd.grad(y, [x, *weights], direction, materialize_grads=True)


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    d=st.integers(1, 5),
    n=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_agrees_with_loops_over_rows(sizes, d, n, seed):
    x, plan, weights, modality = make_case(sizes, d, n, seed)
    expected = loop(x, weights, modality)
    wanted = gradients(expected, x, weights)
    for backend in BACKENDS:
        y = apply_linear(x, plan, weights, backend)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        for a, b in zip(gradients(y, x, weights), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_modality_has_the_gradient_zero_and_not_none(backend):
    x, plan, weights, _ = make_case([4, 0, 3], 4, 6)
    apply_linear(x, plan, weights, backend).sum().backward()
    assert weights[0].grad.any()
    assert weights[1].grad is not None
    assert not weights[1].grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_and_gradients_need_not_be_contiguous(backend):
    _, plan, weights, modality = make_case([4, 3], 4, 6)
    x = torch.randn(4, 7, dtype=torch.float64).t().requires_grad_()
    direction = torch.randn(6, 7, dtype=torch.float64).t()
    assert not x.is_contiguous()
    assert not direction.is_contiguous()
    transposed = [torch.randn(4, 6, dtype=torch.float64).t().requires_grad_() for _ in weights]
    y, expected = apply_linear(x, plan, transposed, backend), loop(x, transposed, modality)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    mine, wanted = (torch.autograd.grad(out, [x, *transposed], direction) for out in (y, expected))
    for a, b in zip(mine, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("frozen", [[0], [1], [0, 1]], ids=str)
@pytest.mark.parametrize("rows_learn", [True, False])
def test_frozen_weights_get_no_gradient_and_the_others_theirs(backend, frozen, rows_learn):
    x, plan, weights, modality = make_case([4, 3], 4, 6)
    wanted = gradients(loop(x, weights, modality), x, weights)
    x.requires_grad_(rows_learn)
    for m in frozen:
        weights[m].requires_grad_(False)
    y = apply_linear(x, plan, weights, backend)
    leaves = [x, *weights]
    assert y.requires_grad == any(leaf.requires_grad for leaf in leaves)
    if not y.requires_grad:
        return
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
    for leaf, gradient in zip(leaves, wanted, strict=True):
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, gradient, rtol=1e-12, atol=1e-12)
        else:
            assert leaf.grad is None


def test_sizes_that_live_on_the_device_go_to_the_reference():
    x, plan, weights, modality = make_case([4, 3], 4, 6)
    ragged = Plan(plan.rows, plan.offsets, None, plan.slots, None)
    torch.testing.assert_close(apply_linear(x, ragged, weights), loop(x, weights, modality), rtol=1e-12, atol=1e-12)


def test_bf16_is_rounded_once_a_product():
    x, plan, weights, modality = make_case([24, 40], 64, 48, dtype=torch.bfloat16)
    exact = loop(x.double(), [w.double() for w in weights], modality)
    y = apply_linear(x, plan, weights).double()
    assert (y - exact).norm() / exact.norm() < 2.0**-8
