"""From places back to rows, as a gather: no atomics, so results are deterministic.

    y[t] = sum of weight[p] * ys[p] over the places p of row t

It serves the combine and, with weights of 1, the gradient of the gather x[rows]. For plans without padding.
Shape legend: T rows, D width, R places, n slots a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def places_by_row(slots: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """slots (T, n) -> the places of all rows in row order (R,), and where each row's begin in it (T,)."""
    filled = slots >= 0
    rank = torch.where(filled, torch.cumsum(filled.flatten(), 0).view_as(slots) - 1, places)
    by_row = slots.new_zeros(places + 1)  # the last one takes what is no place
    by_row.scatter_(0, rank.flatten(), slots.flatten())
    counts = filled.sum(1)
    return by_row[:places], torch.cumsum(counts, 0) - counts


def sum_places(ys: Tensor, by_row: Tensor, starts: Tensor, weights: Tensor | None) -> Tensor:
    """ys (R, D) -> (T, D): the (weighted) sum of each row's places in order of place; 0 for a row without one."""
    if not by_row.numel():
        return ys.new_zeros(starts.numel(), ys.shape[1])
    w = None if weights is None else weights[by_row].to(ys.dtype)
    return embedding_bag(by_row, ys, starts, mode="sum", per_sample_weights=w)
