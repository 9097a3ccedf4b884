from __future__ import annotations

import math

import pytest

from momafuse.training.optimizer import decays
from momafuse.training.schedule import learning_rate


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_warm_up_peak_and_end(shape):
    rate = [learning_rate(s, peak=1.0, end=0.1, warmup=4, total=10, shape=shape) for s in range(1, 13)]
    assert rate[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rate[9:] == pytest.approx([0.1, 0.1, 0.1])
    middle = 0.55
    assert rate[6] == pytest.approx(middle)
    expected = 1 - 0.9 / 6 if shape == "linear" else 0.1 + 0.45 * (1 + math.cos(math.pi / 6))
    assert rate[4] == pytest.approx(expected)


def test_without_warm_up_the_first_step_starts_to_fall():
    assert learning_rate(1, peak=1.0, end=0.0, warmup=0, total=4, shape="linear") == 0.75


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("embedding.weight", False),
        ("head.weight", False),
        ("norm.weight", False),
        ("blocks.0.attention.q_norm.weight", False),
        ("blocks.0.experts.router.weight.text", False),
        ("blocks.0.attention.qkv.weight", True),
        ("blocks.3.experts.groups.image.down", True),
    ],
)
def test_which_parameters_decay(path, expected):
    assert decays(path) is expected
