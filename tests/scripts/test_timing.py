"""scripts/timing.py: rounds are paired, each begins with another member, and warm-up does not count."""

from __future__ import annotations

import pytest
import timing
import torch

CPU = torch.device("cpu")


def test_rounds_are_paired_and_each_begins_with_another():
    ran = []
    actions = {name: lambda name=name: ran.append(name) for name in "abc"}
    clock = iter(range(100))

    def timer(action, device):
        action()
        return float(next(clock))

    times = timing.paired(actions, 4, CPU, timer=timer, warm=1)
    assert [ran[i : i + 3] for i in range(3, len(ran), 3)] == [list("abc"), list("bca"), list("cab"), list("abc")]
    assert times == {"a": [0, 5, 7, 9], "b": [1, 3, 8, 10], "c": [2, 4, 6, 11]}


def test_a_ratio_is_that_within_rounds():
    assert timing.ratio([2.0, 30.0, 6.0], [1.0, 10.0, 4.0]) == 2.0


def test_without_a_gpu_the_device_works_as_long_as_the_clock_says(monkeypatch):
    monkeypatch.setattr(timing, "seconds", lambda action, device: 3.0)
    assert timing.device_seconds(lambda: None, CPU) == 3.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_asked_what_its_kernels_took():
    a = torch.randn(4096, 4096, device="cuda")
    (name, taken, count), *_ = timing.kernels(lambda: [a @ a for _ in range(3)], a.device)
    assert count == 3
    assert name
    wall = timing.seconds(lambda: [a @ a for _ in range(3)], a.device)
    assert 0.3 * wall < taken < 1.1 * wall
    assert timing.device_seconds(lambda: a @ a, a.device) == pytest.approx(taken / 3, rel=0.5)
