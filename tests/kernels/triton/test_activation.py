"""silu(a) * b and its derivative in one pass, in Triton's interpreter, against float64; products of torch take them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.kernels import bmm
from momafuse.kernels.triton import activation
from tests.kernels.triton.test_interpreted import agree, ragged_case

ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11}


@settings(max_examples=15)
@given(st.integers(0, 70), st.integers(1, 9), st.sampled_from(list(ROUNDING)), st.sampled_from([16, 2048]))
def test_both_directions(n, f, dtype, block):
    g = torch.Generator().manual_seed(n)
    a, b, dh = (3 * torch.randn(n, f, generator=g).to(dtype) for _ in range(3))
    exact = [t.double().requires_grad_() for t in (a, b)]
    y = torch.nn.functional.silu(exact[0]) * exact[1]
    wanted = [y.detach(), *torch.autograd.grad(y, exact, dh.double())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activation, "BLOCK", block)
        h = activation.swiglu(a, b)
        kept = a.clone(), b.clone()
        da, db, again = activation.swiglu_backward(a, b, dh)
    assert da.data_ptr() == dh.data_ptr()
    assert torch.equal(h, again)
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])
    for mine, right in zip((h, da, db), wanted, strict=True):  # a handful of roundings in fp32, one in the dtype
        torch.testing.assert_close(mine.double(), right, rtol=ROUNDING[dtype] + 2.0**-20, atol=1e-6)


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("backend", ["bmm", "grouped_mm"])
def test_products_of_torch_take_them(monkeypatch, backend, dtype):
    from momafuse.routing.plan import Plan

    called = []
    monkeypatch.setattr(bmm, "triton_serves", lambda x: called.append(x) or True)
    x, plan, groups = ragged_case([(32, [16, 16]), (16, [24])], 16, 40, dtype=dtype)
    agree(x, Plan(plan.rows, plan.offsets, plan.weights, plan.slots, (16, 16, 24)), groups, backend=backend)
    assert len(called) == 4, "two groups, two directions"
