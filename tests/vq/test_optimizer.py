"""Muon against its equations, in float64 where they are exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from momafuse.training.optimizer import set_learning_rate
from momafuse.vq.optimizer import MOMENTUM, Muon, adam, orthogonalise, split_parameters


@pytest.mark.parametrize("shape", [(24, 24), (30, 90), (90, 30)])
def test_the_direction_keeps_the_singular_vectors_and_evens_their_lengths(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = orthogonalise(matrix, torch.float64)
    left, lengths, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ out @ right.T
    assert float((inner - torch.diag(inner.diagonal())).abs().max()) < 1e-9
    assert float(lengths.max() / lengths.min()) > 1.5
    even = inner.diagonal()[lengths > 0.05 * lengths.max()]
    assert 0.6 < float(even.min()) < float(even.max()) < 1.25


def test_a_step_follows_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = nn.Parameter(torch.randn(40, 4, 3, 3, generator=generator, dtype=torch.float64))
    muon = Muon([kernel], lr=0.0, weight_decay=0.1, dtype=torch.float64)
    expected, momentum = kernel.detach().clone(), torch.zeros(40, 36, dtype=torch.float64)
    for lr in (0.1, 0.05):
        gradient = torch.randn(40, 4, 3, 3, generator=generator, dtype=torch.float64)
        kernel.grad = gradient.clone()
        set_learning_rate(muon, lr)
        muon.step()
        flat = gradient.reshape(40, 36)
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * flat
        direction = orthogonalise((1 - MOMENTUM) * flat + MOMENTUM * momentum, torch.float64)
        expected = (1 - lr * 0.1) * expected - lr * (40 / 36) ** 0.5 * direction.reshape(40, 4, 3, 3)
        torch.testing.assert_close(kernel.detach(), expected)


def test_every_parameter_has_one_optimizer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3), nn.Conv1d(32, 24, 3), nn.Linear(32, 32))
    kernels, rest = split_parameters(model)
    assert sorted(map(id, [*kernels, *rest])) == sorted(map(id, model.parameters()))
    assert [id(kernel) for kernel in kernels] == [id(model[0].weight), id(model[2].weight)], "wide kernels of either kind"


def test_a_parameter_that_learns_later_begins_as_at_step_0() -> None:
    first, later = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = adam([[first], [later]], 0.1, (0.9, 0.99))
    for step in range(4):
        first.grad = torch.full((3,), 0.5)
        later.grad = torch.full((3,), 0.5) if step == 3 else None
        optimizer.step()
    torch.testing.assert_close(later.detach(), torch.full((3,), 0.9), msg="the first step of Adam is its rate")
    alone = nn.Parameter(torch.ones(3))
    plain = torch.optim.Adam([alone], lr=0.1, betas=(0.9, 0.99), fused=True)
    for _ in range(4):
        alone.grad = torch.full((3,), 0.5)
        plain.step()
    assert torch.equal(first, alone)
