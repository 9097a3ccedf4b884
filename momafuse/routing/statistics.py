"""What a plan did, counted: rows per expert and modality, and rows chosen by no, one and more experts.

Under expert choice a row can be left out or be taken several times; with the norm after the experts (swin) only rows taken
more than once give the gate a gradient, so these shares are worth watching (docs/design.md, "Attention and norms").
Returned values, never stored in modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Count a plan of these rows; padding beyond its last offset is not counted. No device waits."""
    experts = plan.offsets.numel() - 1
    places = torch.arange(plan.rows.numel(), device=plan.rows.device)
    expert = torch.searchsorted(plan.offsets[1:], places, right=True)
    modality = rows.modality.flatten().long()[plan.rows]
    load = _histogram(expert * n_modalities + modality, (experts + 1) * n_modalities)
    return RoutingCounts(load.view(-1, n_modalities)[:experts], chosen_counts(plan, rows, n_modalities))


def chosen_counts(plan: Plan, rows: Rows, n_modalities: int) -> Tensor:
    """(M, 3) int64: rows of each modality chosen by 0, 1, 2 or more experts."""
    times = (plan.slots >= 0).sum(1).clamp(max=2)
    return _histogram(rows.modality.flatten().long() * 3 + times, n_modalities * 3).view(n_modalities, 3)


def chosen_shares(chosen: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """`router/none_MODALITY` and `router/many_MODALITY`: the shares of rows chosen by no and by several experts, from the
    counts of `chosen_counts` in one list; a modality without rows is left out."""
    shares: dict[str, float] = {}
    for m, name in enumerate(names):
        none, one, many = chosen[3 * m : 3 * m + 3]
        if total := none + one + many:
            shares |= {f"router/none_{name}": none / total, f"router/many_{name}": many / total}
    return shares


def _histogram(numbers: Tensor, size: int) -> Tensor:
    """How often each of 0 .. size - 1 occurs; `torch.bincount` would wait for the device."""
    return numbers.new_zeros(size).scatter_add_(0, numbers, torch.ones_like(numbers))
