"""Mixture of depths: a layer's router keeps a share of the rows, the others pass the layer by.

    z = x w_d;   keep the K rows with the largest z;   y = x + sigmoid(z) * (block(x) - x) for kept rows, y = x for the others
    (MoMa, arXiv 2407.21770 section 2.3, sigmoid and batch-wise choice; mixture of depths, 2404.02258)

With `per_modality` a sequence keeps floor(capacity * budget[m]) rows of each modality, so that every shape and count is a
host constant and the kept rows are a batch like any other. Without, the paper's form: floor(capacity * rows) of a pool of
`pool` sequences, whatever their modality; how many a modality or a sequence keeps is then known to the device only.

Shape legend: T rows, D width, B sequences, S rows of one, M modalities, K kept rows. State: `weight (1, D)`.
Does not compute the block. Not causal: whether a row is kept depends on later rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from momafuse.routing.routers import CEILING, logits, top_rows
from momafuse.routing.rows import Rows


@dataclass(frozen=True)
class Kept:
    """The kept rows as rows of their own, in order of number; they satisfy `Rows`. G = B sequences, or one for each pool."""

    rows: Tensor  # (G, K) int64, their numbers among the T rows
    gates: Tensor  # (G, K) fp32, differentiable
    tokens: Tensor  # (G, K) int64
    position: Tensor  # (G, K) integers
    modality: Tensor  # (G, K) uint8
    order: Tensor  # (G * K,) int64
    budget: tuple[int, ...] | None  # None without per_modality


def kept_count(rows: int, capacity: float) -> int:
    """K of so many rows."""
    return math.floor(rows * capacity + CEILING)


class DepthRouter(nn.Module):
    def __init__(self, dim: int, capacity: float, per_modality: bool, pool: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, dim))
        self.capacity = capacity
        self.per_modality = per_modality
        self.pool = pool

    def forward(self, x: Tensor, rows: Rows, auxiliary: Tensor | None = None, again: Kept | None = None) -> Kept:
        """x (T, D). The rows that are kept `again` are only weighed. With logits `auxiliary` (T, 1) the rows above 0 are kept,
        each by itself (auxiliary.py), as one stretch.

        Waits for the device to know how many. Without: raises ValueError if sequences fill no whole pools, where the choice is
        over pools.
        """
        z = logits(x, self.weight).squeeze(1)
        sequences, length = rows.modality.shape
        if again is not None:
            return replace(again, gates=torch.sigmoid(z)[again.rows])
        if auxiliary is not None:
            return self._kept(z, (auxiliary.flatten() > 0).nonzero().view(1, -1), z.numel(), rows, None)
        if self.per_modality:
            assert rows.budget is not None, "mixture of depths within mixture of depths"
            counts = tuple(kept_count(n, self.capacity) for n in rows.budget)
            others = torch.stack([rows.modality != m for m in range(len(counts))], dim=1)
            score = z.detach().view(sequences, 1, length).expand_as(others).masked_fill(others, float("-inf"))
            top = top_rows(score, max(counts))
            places = torch.cat([top[:, m, :k] for m, k in enumerate(counts)], dim=1)
            return self._kept(z, places.sort(1).values, length, rows, counts)
        if sequences % self.pool:
            raise ValueError(f"router.pool={self.pool}: a batch of {sequences} sequences holds no whole number of pools")
        size = self.pool * length
        top = top_rows(z.detach().view(-1, 1, size), kept_count(size, self.capacity))
        return self._kept(z, top[:, 0].sort(1).values, size, rows, None)

    @staticmethod
    def _kept(z: Tensor, places: Tensor, size: int, rows: Rows, budget: tuple[int, ...] | None) -> Kept:
        """`places` (G, K) within stretches of `size` rows."""
        numbers = places + torch.arange(places.shape[0], device=z.device).unsqueeze(1) * size
        tokens, position, modality = (x.flatten()[numbers] for x in (rows.tokens, rows.position, rows.modality))
        order = modality.flatten().argsort(stable=True)
        return Kept(numbers, torch.sigmoid(z)[numbers], tokens, position, modality, order, budget)
