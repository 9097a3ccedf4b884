"""The pull of the discriminator, picture by picture, against its equation; what the discriminator learns by."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from momafuse.tokenizers.adversary import Adversary
from momafuse.vision.discriminator import PatchDiscriminator, hinge
from momafuse.vq.config import DiscriminatorConfig

CONFIG = DiscriminatorConfig(start=5, weight=0.5, lr=1e-3, channels=8, layers=2)


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return PatchDiscriminator(CONFIG).double()


def test_the_pull_is_balanced_picture_by_picture(network: nn.Module) -> None:
    output, pulled = pictures(0).requires_grad_(), pictures(1) * torch.tensor([1.0, 10.0, 0.0]).view(3, 1, 1, 1).double()
    found = Adversary(network, CONFIG).pull(output, pulled)
    assert all(p.grad is None for p in network.parameters()), "pulling teaches the discriminator nothing"
    for n in range(3):
        one = output.detach()[n : n + 1].requires_grad_()
        (-network(one).mean()).backward()
        assert one.grad is not None
        expected = pulled[n] + 0.5 * one.grad[0] * pulled[n].norm() / one.grad.norm()
        torch.testing.assert_close(found[n], expected, rtol=1e-6, atol=1e-9)


def test_it_learns_the_hinge_and_tells_the_decoder_nothing(network: nn.Module) -> None:
    items, output = pictures(0), pictures(1).requires_grad_()
    found = Adversary(network, CONFIG).learn(items, output, weight=6)
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    assert output.grad is None
    network.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for n in range(3):
        real, made = network(items[n : n + 1])[0], network(output.detach()[n : n + 1])[0]
        one = sum((1 - r).clamp(min=0) for r in real) / len(real) / 2 + sum((1 + m).clamp(min=0) for m in made) / len(made) / 2
        assert float(found[n]) == pytest.approx(float(one), rel=1e-5)
        total = total + one / 6
    total.backward()  # type: ignore[no-untyped-call]
    for expected, g in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(g, expected.grad, rtol=1e-5, atol=1e-8)


def test_a_perfect_judge_has_nothing_to_learn() -> None:
    assert hinge(torch.full((2, 4), 1.5), torch.full((2, 4), -1.0)).tolist() == [0.0, 0.0]


def test_it_begins_when_it_is_asked_to(network: nn.Module) -> None:
    adversary = Adversary(network, CONFIG)
    assert [adversary.begins(step) for step in (4, 5, 6)] == [False, True, True]


def test_two_kinds_of_pictures_are_told_apart(network: nn.Module) -> None:
    """White noise from flat colour, in a few steps."""
    adversary, flat = Adversary(network, CONFIG), torch.zeros(8, 3, 16, 16, dtype=torch.float64)
    optimizer = torch.optim.Adam(adversary.parameters(), lr=5e-3)
    for step in range(40):
        noise = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        loss = adversary.learn(noise, flat, weight=8)
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.mean()) < 0.1
