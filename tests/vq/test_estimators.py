"""Gradients past the choice of a code, against matrices written out."""

from __future__ import annotations

import torch
from torch import Tensor

from momafuse.vq.estimators import rotated, straight_through


def numbers(seed: int) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_straight_through_has_the_codes_value_and_the_inputs_gradient() -> None:
    vectors, quantized, weights = numbers(0).requires_grad_(), numbers(1).requires_grad_(), numbers(2)
    out = straight_through(vectors, quantized)
    torch.testing.assert_close(out, quantized)
    (out * weights).sum().backward()
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad, weights, rtol=0, atol=0)
    assert quantized.grad is None


def test_the_rotation_takes_a_vector_to_its_code_and_turns_its_gradient() -> None:
    vectors, quantized, weights = numbers(0).requires_grad_(), numbers(1).requires_grad_(), numbers(2)
    out = rotated(vectors, quantized)
    torch.testing.assert_close(out, quantized)
    (out * weights).sum().backward()
    assert quantized.grad is None
    assert vectors.grad is not None
    for v, c, g, found in zip(vectors.detach(), quantized.detach(), weights, vectors.grad, strict=True):
        a, b = v / v.norm(), c / c.norm()
        r = (a + b) / (a + b).norm()
        matrix = torch.eye(4, dtype=torch.float64) - 2 * torch.outer(r, r) + 2 * torch.outer(b, a)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(4, dtype=torch.float64))
        torch.testing.assert_close(matrix @ a, b)
        torch.testing.assert_close(found, c.norm() / v.norm() * matrix.T @ g)
