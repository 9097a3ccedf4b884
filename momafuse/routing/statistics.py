"""What a plan did, counted: rows per expert and modality, and rows chosen by no, one and more experts.

Under expert choice a row can be left out or be taken several times; with the norm after the experts (swin) only rows taken
more than once give the gate a gradient, so these shares are worth watching (docs/design.md, "Attention and norms").
Returned values, never stored in modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from momafuse.routing.plan import Plan
from momafuse.routing.rows import Rows


@dataclass(frozen=True)
class RoutingCounts:
    """Counts of one layer on one batch; they add up over batches and ranks."""

    load: Tensor  # (E, M) int64, rows of each modality that each expert took
    chosen: Tensor  # (M, 3) int64, rows of each modality chosen by 0, 1, 2 or more experts

    def __add__(self, other: RoutingCounts) -> RoutingCounts:
        return RoutingCounts(self.load + other.load, self.chosen + other.chosen)

    def nothing(self) -> RoutingCounts:
        return RoutingCounts(torch.zeros_like(self.load), torch.zeros_like(self.chosen))


def sum_counts(counts: list[RoutingCounts], total: Callable[[Tensor], Tensor]) -> list[RoutingCounts]:
    """The counts of all layers summed by `total` (over ranks) in one piece."""
    if not counts:
        return []
    parts = [part for c in counts for part in (c.load, c.chosen)]
    summed = torch.split(total(torch.cat([p.flatten() for p in parts])), [p.numel() for p in parts])
    shaped = [s.view_as(p) for s, p in zip(summed, parts, strict=True)]
    return [RoutingCounts(load, chosen) for load, chosen in zip(shaped[::2], shaped[1::2], strict=True)]


def count_plan(plan: Plan, rows: Rows, n_modalities: int) -> RoutingCounts:
    """Count a plan of these rows; padding beyond its last offset is not counted."""
    modality = rows.modality.flatten().long()
    experts = plan.offsets.numel() - 1
    places = torch.arange(plan.rows.numel(), device=plan.rows.device)
    expert = torch.searchsorted(plan.offsets[1:], places, right=True)
    load = torch.bincount(expert * n_modalities + modality[plan.rows], minlength=(experts + 1) * n_modalities)
    times = (plan.slots >= 0).sum(1).clamp(max=2)
    chosen = torch.bincount(modality * 3 + times, minlength=n_modalities * 3)
    return RoutingCounts(load.view(-1, n_modalities)[:experts], chosen.view(n_modalities, 3))
