"""The chunked loss against the definition, one row at a time, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.kernels import cross_entropy
from momafuse.objectives.next_token import next_token


def loop(hidden, head, targets, weights, z):
    total, nll = torch.zeros((), dtype=torch.float64), []
    for h, t, w in zip(hidden, targets.tolist(), weights, strict=True):
        if t < 0:
            nll.append(0.0)
            continue
        logits = head @ h
        lse = torch.log(torch.exp(logits - logits.max()).sum()) + logits.max()
        nll.append(float((lse - logits[t]).detach()))
        total = total + w * (lse - logits[t] + z * lse**2)
    return total, torch.tensor(nll, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(2, 7),
    chunk=st.integers(1, 40),
    z=st.sampled_from([0.0, 1e-5, 0.3]),
    seed=st.integers(0, 999),
)
def test_loss_and_gradients_agree_with_a_loop(rows, vocabulary, chunk, z, seed):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 3, generator=g, dtype=torch.float64, requires_grad=True)
    head = torch.randn(vocabulary, 3, generator=g, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(-1, vocabulary, (rows,), generator=g)
    weights = torch.rand(rows, generator=g)
    expected, nll = loop(hidden, head, targets, weights.double(), z)
    if expected.requires_grad:
        wanted = torch.autograd.grad(expected, (hidden, head))
    else:
        wanted = (torch.zeros_like(hidden), torch.zeros_like(head))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CPU_ELEMENTS", chunk)
        result = next_token(hidden, head, targets, weights, z)
    torch.testing.assert_close(result.total, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.nll, nll, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(result.total, (hidden, head)), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


def test_large_logits_do_not_overflow():
    hidden = torch.tensor([[1.0, 0.0]], requires_grad=True)
    head = torch.tensor([[3e4, 0.0], [-3e4, 0.0]], requires_grad=True)
    result = next_token(hidden, head, torch.tensor([1]), torch.ones(1), 0.0)
    assert math.isclose(float(result.nll[0]), 6e4)
    result.total.backward()
    assert torch.isfinite(hidden.grad).all()


def test_bf16_is_near_fp32():
    g = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(64, 32, generator=g), torch.randn(100, 32, generator=g) * 0.2
    targets, weights = torch.randint(0, 100, (64,), generator=g), torch.full((64,), 1 / 64)
    exact = next_token(hidden, head, targets, weights, 1e-5)
    rounded = next_token(hidden.bfloat16(), head.bfloat16(), targets, weights, 1e-5)
    assert rounded.total.dtype == torch.float32
    assert abs(float(exact.total - rounded.total)) < 0.02
