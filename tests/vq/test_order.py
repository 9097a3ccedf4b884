"""The order of training, against what it promises."""

from __future__ import annotations

from typing import get_args

import torch

from momafuse.vq.order import Kind, generator_of, place_of


def test_every_pass_takes_every_item_once_in_another_order() -> None:
    passes = [[place_of(3, turn * 50 + n, 50) for n in range(50)] for turn in range(4)]
    assert all(sorted(one) == list(range(50)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    assert passes[0] != [place_of(4, n, 50) for n in range(50)], "another seed"


def test_draws_hang_on_seed_number_and_kind_alone() -> None:
    drawn = {
        (seed, number, kind): float(torch.rand((), generator=generator_of(seed, number, kind)))
        for seed in (0, 1)
        for number in (0, 1, 10**9)
        for kind in get_args(Kind)
    }
    assert len(set(drawn.values())) == len(drawn)
    again = float(torch.rand((), generator=generator_of(1, 10**9, "restart")))
    assert again == drawn[1, 10**9, "restart"]
