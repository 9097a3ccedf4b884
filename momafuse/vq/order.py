"""The order in which items are trained on, as arithmetic: everything follows from (seed, number) and from nothing before it."""

from __future__ import annotations

from functools import lru_cache
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


@lru_cache(2)
def _permutation(seed: int, turn: int, count: int) -> Tensor:
    return torch.randperm(count, generator=generator_of(seed, turn, "pass"))
