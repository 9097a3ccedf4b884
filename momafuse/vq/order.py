"""The order in which items are trained on, as arithmetic: everything follows from (seed, number) and from nothing before it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from momafuse.draws import seed_of

Kind = Literal["item", "pass", "codes", "restart"]  # of draws; each has numbers of its own


def generator_of(seed: int, number: int, kind: Kind = "item") -> torch.Generator:
    """For what is drawn for one number."""
    return torch.Generator().manual_seed(seed_of(kind, seed, number))


def place_of(seed: int, number: int, count: int) -> int:
    """Which of `count` items the number stands for: every pass takes all, in an order of its own."""
    turn, at = divmod(number, count)
    return int(_permutation(seed, turn, count)[at])


class Order:
    """Items of several sources, of which some are taken more often: in a round a source gives `weight` times its items, from
    passes over itself that go on in the next round. With weights of 1 a round is a pass over all."""

    def __init__(self, seed: int, counts: Sequence[int], weights: Sequence[float]) -> None:
        """`counts` of items, and weights, by source; a source of weight above 0 gives at least one item a round."""
        self._seed, self._counts = seed, counts
        self._given = [max(1, round(weight * count)) for count, weight in zip(counts, weights, strict=True)]
        self._ends = list(accumulate(self._given))

    def place(self, number: int) -> int:
        """Which item, the sources' items numbered one source after the other, the number stands for."""
        turn, at = divmod(number, self._ends[-1])
        slot = int(_permutation(self._seed, turn, self._ends[-1])[at])
        source = bisect_right(self._ends, slot)
        given = self._given[source]
        own = turn * given + slot - (self._ends[source] - given)
        return sum(self._counts[:source]) + place_of(self._seed, own, self._counts[source])


@lru_cache(64)
def _permutation(seed: int, turn: int, count: int) -> Tensor:
    return torch.randperm(count, generator=generator_of(seed, turn, "pass"))
