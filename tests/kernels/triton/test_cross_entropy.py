"""Loss and gradient of rows of logits in Triton's interpreter, against torch's passes in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.kernels.cross_entropy import cross_entropy
from momafuse.kernels.triton import cross_entropy as op
from momafuse.kernels.triton.cross_entropy import cross_entropy_triton


def case(rows, columns, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(rows, columns, generator=g)).to(dtype)
    targets = torch.randint(-1, columns, (rows,), generator=g)
    return logits, targets, torch.rand(rows, generator=g) * (targets >= 0)


def exact(logits, targets, weights, z):
    return cross_entropy(logits.double(), targets, weights.double(), z, True)


@settings(max_examples=25)
@given(rows=st.integers(1, 5), columns=st.integers(1, 70), z=st.sampled_from([0.0, 1e-5, 0.3]), seed=st.integers(0, 99))
def test_loss_and_gradient(rows, columns, z, seed):
    logits, targets, weights = case(rows, columns, seed=seed)
    wanted = exact(logits, targets, weights, z)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op, "BLOCK", 16)
        nll, lse = cross_entropy_triton(logits, targets, weights, z, True)
    for mine, right in zip((nll, lse, logits), wanted, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_are_taken_in_fp32(dtype):
    logits, targets, weights = case(7, 9000, dtype)
    wanted = exact(logits, targets, weights, 1e-5)
    nll, lse = cross_entropy_triton(logits, targets, weights, 1e-5, True)
    assert nll.dtype == lse.dtype == torch.float32
    torch.testing.assert_close(nll.double(), wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse.double(), wanted[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.double(), wanted[2], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_without_a_gradient_logits_stay_as_they_are():
    logits, targets, weights = case(3, 20)
    before = logits.clone()
    cross_entropy_triton(logits, targets, weights, 1e-5, False)
    assert torch.equal(logits, before)


def test_large_logits_do_not_overflow_and_rows_may_be_apart():
    wide = torch.zeros(2, 8)
    wide[:, :2] = torch.tensor([[3e4, -3e4], [-3e4, 3e4]])
    nll, _ = cross_entropy_triton(wide[:, :4], torch.tensor([1, 1]), torch.ones(2), 0.0, True)
    assert nll.tolist() == [6e4, 0.0]
    assert wide.isfinite().all()
    assert not wide[:, 4:].any(), "what is not of these columns stays as it is"


@pytest.mark.parametrize("needs_grad", [True, False])
def test_the_op_keeps_to_the_rules_of_torch(needs_grad):
    torch.library.opcheck(torch.ops.momafuse.cross_entropy_triton.default, (*case(3, 20), 1e-5, needs_grad))
