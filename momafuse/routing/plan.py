"""A routing plan is data: which rows each expert computes, and with which weight.

Shape legend: T rows, E experts (of all groups together), R places of the plan, n experts that can serve one row at most.
A *group* is a number of experts that serve the same modalities (docs/design.md, idea 2); experts are numbered through the
groups in order. Routers make plans (routers.py); experts apply them; neither knows the other. Offsets and columns are made
by arithmetic on the device from host integers, so that no plan with known sizes waits for a transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from momafuse.routing.names import ALL, SHARED
from momafuse.routing.rows import Rows


@dataclass(frozen=True)
class Group:
    """`experts` experts of hidden width `width` for rows of `modalities` (numbers in the vocabulary's order).

    A group of one expert takes every row of its modalities, without router and gate.
    """

    name: str
    experts: int
    modalities: tuple[int, ...]
    width: int


@dataclass(frozen=True)
class Scores:
    """What a router computed on the way to its plan: its losses, its state and reports are made from it."""

    logits: Tensor  # (T, N) fp32 at least, differentiable, without noise: of the experts of the routed groups
    chosen: Tensor | None = None  # (T, N) bool: the choice before any row was dropped; None: the plan has all of it
    cut: Tensor | None = None  # (T,) the least noisy logit that was chosen, differentiable; None: no noise was added
    measured: Tensor | None = None  # float64, adds up over batches: what the router's state is written from


@dataclass(frozen=True)
class Plan:
    """Rows sorted by expert. `sizes[e] = offsets[e + 1] - offsets[e]` where the router knows it as host integers."""

    rows: Tensor  # (R,) int64, the row of each place; places beyond the last offset are padding: row 0, weight 0
    offsets: Tensor  # (E + 1,) int64, expert e computes places offsets[e] .. offsets[e + 1]
    weights: Tensor | None  # (R,) fp32 gates, differentiable; None: every weight is 1
    slots: Tensor  # (T, n) int64, the places of each row, -1 for none
    sizes: tuple[int, ...] | None  # host constants, for backends that need equal or known shapes
    scores: Scores | None = None  # None: nothing was scored


def groups_of(
    experts: Mapping[str, int], modality_names: Sequence[str], width: int, widths: Mapping[str, int] | None = None
) -> tuple[Group, ...]:
    """The groups of a layer from expert counts: a modality's own experts, those of several (`text+image`), `all` for every
    modality, `shared` always on.

    `widths` names the groups whose width is not `width`. n shared experts are one expert of n times the width: every row
    goes through all of them with weight 1, so the function is the same and each row is gathered once.
    """
    every = tuple(range(len(modality_names)))
    groups = []
    for name, count in experts.items():
        w = (widths or {}).get(name, width)
        named = [m for m in name.split("+") if m in modality_names]  # of `text+image` text alone, where there is no image
        modalities = every if name in (ALL, SHARED) else tuple(sorted(map(modality_names.index, named)))
        groups.append(Group(name, 1, modalities, count * w) if name == SHARED else Group(name, count, modalities, w))
    return tuple(groups)


def slot_columns(groups: Sequence[Group]) -> tuple[tuple[int, ...], int]:
    """The first column of each group's experts in `Plan.slots`, and the number of columns n.

    Experts that serve no common modality share columns, so that n is what one row can need and not E.
    """
    used: dict[int, int] = {}
    columns: list[int] = []
    for g in groups:
        first = max(used.get(m, 0) for m in g.modalities)
        columns.append(first)
        used |= dict.fromkeys(g.modalities, first + g.experts)
    return tuple(columns), max(used.values())


def make_plan(
    rows: Tensor,
    shapes: Sequence[tuple[int, int]],
    weights: Tensor | None,
    columns: Sequence[int],
    n: int,
    t: int,
    scores: Scores | None = None,
) -> Plan:
    """Complete a plan without padding from its rows (R,), `shapes` = (experts, places of each) of every group, and T = `t`."""
    device = rows.device
    starts, column, start = [], [], 0
    for (experts, count), first in zip(shapes, columns, strict=True):
        local = torch.arange(experts, device=device)
        starts.append(local * count + start)
        column.append((local + first).unsqueeze(1).expand(experts, count).reshape(-1))
        start += experts * count
    end = torch.full((1,), start, device=device)
    places = torch.arange(start, device=device)
    slots = torch.full((t * n,), -1, device=device).scatter(0, rows * n + torch.cat(column), places)
    sizes = tuple(count for experts, count in shapes for _ in range(experts))
    return Plan(rows, torch.cat([*starts, end]), weights, slots.view(t, n), sizes, scores)


def plan_of_choices(
    taken: Tensor, gates: Tensor | None, groups: Sequence[Group], bound: int, scores: Scores | None = None
) -> Plan:
    """A plan whose sizes only the device knows: taken (E, T) bool, gates (E, T) or None; at most `bound` places (R).

    Rows stand by expert, then by number. What exceeds the bound is dropped, last experts first.
    """
    experts, t = taken.shape
    flat = taken.flatten()
    place = torch.cumsum(flat, 0) - 1
    place = torch.where(flat & (place < bound), place, bound)  # the place behind the last one takes what is none
    rows = torch.arange(t, device=taken.device).repeat(experts)
    rows = rows.new_zeros(bound + 1).scatter(0, place, rows)[:bound]
    counts = torch.cumsum(taken.sum(1), 0).clamp(max=bound)
    offsets = torch.cat([counts.new_zeros(1), counts])
    used = torch.arange(bound, device=taken.device) < counts[-1]
    weights = None
    if gates is not None:
        weights = gates.new_zeros(bound + 1).scatter(0, place, gates.flatten())[:bound] * used
    columns, n = slot_columns(groups)
    slots = torch.full((t, n), -1, device=taken.device)
    place = torch.where(place < bound, place, -1).view(experts, t)
    e = 0
    for g, first in zip(groups, columns, strict=True):
        for local in range(g.experts):
            slots[:, first + local] = torch.maximum(slots[:, first + local], place[e])
            e += 1
    return Plan(rows * used, offsets, weights, slots, None, scores)


def plan_of_assignment(
    expert: Tensor, gates: Tensor | None, experts: int, places: int | None = None, scores: Scores | None = None
) -> Plan:
    """A plan whose sizes only the device knows from the experts (T, n) int64 of each row, `experts` for none, and their gates
    (T, n) or None. `places`: how many are not none, where the host knows; else T * n, the rest padding.

    Rows stand by expert, then by number.
    """
    t, n = expert.shape
    flat, most = expert.flatten(), t * n if places is None else places
    order = flat.argsort(stable=True)[:most]
    counts = flat.new_zeros(experts + 1).scatter_add_(0, flat, torch.ones_like(flat))
    offsets = torch.cat([counts.new_zeros(1), torch.cumsum(counts[:experts], 0)])
    rows, weights = order // n, None if gates is None else gates.flatten().index_select(0, order)
    if places is None:
        used = torch.arange(most, device=flat.device) < offsets[-1]
        rows, weights = rows * used, None if weights is None else weights * used
    slots = torch.full_like(flat, -1).scatter(0, order, torch.arange(most, device=flat.device))
    return Plan(rows, offsets, weights, torch.where(flat < experts, slots, -1).view(t, n), None, scores)


def served(groups: Sequence[Group], rows: Rows) -> Tensor:
    """(E, T) bool: whether the row's modality is one that the expert serves."""
    modality = rows.modality.flatten()
    parts = []
    for g in groups:
        mine = torch.zeros_like(modality, dtype=torch.bool)
        for m in g.modalities:
            mine = mine | (modality == m)
        parts.append(mine.expand(g.experts, -1))
    return torch.cat(parts)


def of_routed(x: Tensor, groups: Sequence[Group]) -> Tensor:
    """x (T, E), a column an expert -> (T, N): without the columns of groups of one."""
    parts = torch.split(x, [g.experts for g in groups], dim=1)  # a list of columns would be copied to the device
    return torch.cat([part for part, g in zip(parts, groups, strict=True) if g.experts > 1], dim=1)


def rows_of(group: Group, rows: Rows) -> Tensor:
    """The rows of the group's modalities, by modality, then by number; the rows' budget must be known."""
    assert rows.budget is not None, "only the device knows these counts"
    sequences = rows.modality.shape[0]
    starts = [sequences * sum(rows.budget[:m]) for m in range(len(rows.budget) + 1)]
    if len(group.modalities) == len(rows.budget):
        return rows.order
    return torch.cat([rows.order[starts[m] : starts[m + 1]] for m in group.modalities])


def fixed_plan(groups: Sequence[Group], rows: Rows) -> Plan | None:
    """The plan of groups of one expert each, made once for all layers; None where one expert serves every row."""
    if len(groups) == 1:
        return None
    t = rows.modality.numel()
    if rows.budget is None:
        overlap = sum(1 for g in groups if g.name == SHARED)
        return plan_of_choices(served(groups, rows), None, groups, t * (1 + overlap))
    parts = [rows_of(g, rows) for g in groups]
    columns, n = slot_columns(groups)
    return make_plan(torch.cat(parts), [(1, p.numel()) for p in parts], None, columns, n, t)
