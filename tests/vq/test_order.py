"""The order of training, against what it promises."""

from __future__ import annotations

from typing import get_args

import torch

from momafuse.vq.order import Kind, Order, generator_of, place_of


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


def test_with_weights_of_one_a_round_takes_every_item_of_every_source_once() -> None:
    order = Order(0, [7, 30, 3], [1.0, 1.0, 1.0])
    rounds = [[order.place(turn * 40 + n) for n in range(40)] for turn in range(3)]
    assert all(sorted(one) == list(range(40)) for one in rounds)
    assert len({tuple(one) for one in rounds}) == 3
    assert {n < 7 for n in rounds[0][:20]} == {True, False}, "sources are mixed"


def test_a_source_gives_as_often_as_its_weight_says_and_all_of_it() -> None:
    order = Order(0, [10, 20], [2.0, 0.25])
    taken = [order.place(n) for n in range(4 * 25)]
    assert [sum(n == item for n in taken) for item in range(10)] == [8] * 10, "twice a round"
    assert sorted(n for n in taken if n >= 10) == list(range(10, 30)), "a quarter a round: all after four"
