"""From places back to rows, as a gather: no atomics, so results are deterministic.

    y[t] = sum of weight[p] * ys[p] over the places p of row t

It serves the combine and, with weights of 1, the gradient of the gather x[rows]. For plans without padding.
Shape legend: T rows, D width, R places, n slots a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def places_by_row(slots: Tensor, places: int) -> tuple[Tensor, Tensor | None]:
    """slots (T, n) -> the places of all rows in row order (R,), and where each row's begin in it (T,).

    None instead of the beginnings where every row has just one place, as in a plan by modality.
    """
    if slots.shape[1] == 1 and places == slots.shape[0]:
        return slots[:, 0], None
    filled = slots >= 0
    rank = torch.where(filled, torch.cumsum(filled.flatten(), 0).view_as(slots) - 1, places)
    by_row = slots.new_zeros(places + 1)  # the last one takes what is no place
    by_row = by_row.scatter(0, rank.flatten(), slots.flatten())
    counts = filled.sum(1)
    return by_row[:places], torch.cumsum(counts, 0) - counts


def sum_places(ys: Tensor, by_row: Tensor, starts: Tensor | None, weights: Tensor | None) -> Tensor:
    """ys (R, D) -> (T, D): the (weighted) sum of each row's places in order of place; 0 for a row without one."""
    w = None if weights is None else weights[by_row].to(ys.dtype)
    if starts is None:
        y = ys.index_select(0, by_row)
        return y if w is None else y * w.unsqueeze(1)
    if not by_row.numel():
        return ys.new_zeros(starts.numel(), ys.shape[1])
    return embedding_bag(by_row, ys, starts, mode="sum", per_sample_weights=w)
