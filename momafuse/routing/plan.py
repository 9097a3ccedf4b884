"""A routing plan is data: which rows each expert computes, and with which weight.

Shape legend: T rows, E experts (of all groups together), R places of the plan, n experts that can serve one row at most.
A *group* is a number of experts that serve the same modalities (docs/design.md, idea 2); experts are numbered through the
groups in order. Routers make plans (routers.py); experts apply them; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """`experts` experts of hidden width `width` for rows of `modalities` (numbers in the vocabulary's order)."""

    name: str
    experts: int
    modalities: tuple[int, ...]
    width: int


@dataclass(frozen=True)
class Plan:
    """Rows sorted by expert. `sizes[e] = offsets[e + 1] - offsets[e]` where the router knows it as host integers."""

    rows: Tensor  # (R,) int64, the row of each place; places beyond the last offset are padding: row 0, weight 0
    offsets: Tensor  # (E + 1,) int64, expert e computes places offsets[e] .. offsets[e + 1]
    weights: Tensor | None  # (R,) fp32 gates, differentiable; None: every weight is 1
    slots: Tensor  # (T, n) int64, the places of each row, -1 for none
    sizes: tuple[int, ...] | None  # host constants, for backends that need equal or known shapes


def groups_of(experts: dict[str, int], modality_names: Sequence[str], width: int) -> tuple[Group, ...]:
    """The groups of `model.experts`: a modality's own experts, or `all` for experts of every modality."""
    every = tuple(range(len(modality_names)))
    return tuple(
        Group(name, n, every if name == "all" else (modality_names.index(name),), width) for name, n in experts.items()
    )


def slot_columns(groups: Sequence[Group]) -> tuple[tuple[int, ...], int]:
    """Each expert's column in `Plan.slots`, and the number of columns n.

    Experts that serve no common modality share columns, so that n is what one row can need and not E.
    """
    used: dict[int, int] = {}
    columns: list[int] = []
    for g in groups:
        first = max(used.get(m, 0) for m in g.modalities)
        columns += range(first, first + g.experts)
        used |= dict.fromkeys(g.modalities, first + g.experts)
    return tuple(columns), max(used.values())


def make_plan(rows: Tensor, sizes: Sequence[int], weights: Tensor | None, columns: Sequence[int], n: int, t: int) -> Plan:
    """Complete a plan without padding from its rows (R,) and host sizes; `t` is the number of rows T."""
    device = rows.device
    size = torch.tensor(sizes, device=device)
    offsets = torch.zeros(len(sizes) + 1, dtype=torch.int64, device=device)
    torch.cumsum(size, 0, out=offsets[1:])
    places = torch.arange(rows.numel(), device=device)
    column = torch.repeat_interleave(torch.tensor(columns, device=device), size, output_size=rows.numel())
    slots = torch.full((t * n,), -1, dtype=torch.int64, device=device)
    slots.scatter_(0, rows * n + column, places)
    return Plan(rows, offsets, weights, slots.view(t, n), tuple(sizes))
