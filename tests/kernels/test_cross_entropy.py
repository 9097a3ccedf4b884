"""Torch's passes against the definition, and how many rows are taken at a time."""

from __future__ import annotations

import torch

from momafuse.kernels import cross_entropy as module
from momafuse.kernels.cross_entropy import cross_entropy, rows_at_once


def test_the_gradient_is_that_of_the_definition():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=g, dtype=torch.float64, requires_grad=True)
    targets, z = torch.tensor([0, 4, -1, 2, 2, -1]), 0.3
    weights = torch.rand(6, generator=g, dtype=torch.float64) * (targets >= 0)
    lse = logits.logsumexp(1)
    nll = torch.where(targets >= 0, lse - logits[torch.arange(6), targets.clamp(min=0)], 0.0)
    (weights * (nll + z * lse.square())).sum().backward()
    found = cross_entropy(logits.detach().clone(), targets, weights, z, True)
    for mine, right in zip(found, (nll.detach(), lse.detach(), logits.grad), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12)
    assert cross_entropy(logits.detach(), targets, weights, z, False)[2] is None


def test_rows_at_once():
    assert rows_at_once(torch.empty(4096, 3)) == module.CPU_ELEMENTS // 4096
    assert rows_at_once(torch.empty(65536, 3, device="meta")) == 2048
    assert rows_at_once(torch.empty(1 << 28, 0)) == 1
