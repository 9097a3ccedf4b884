"""The expert op as batched matrix products: one `bmm` a projection and group. The product on CPU; any device.

Needs the same number of places for the experts of a group, as host integers (expert choice and by-modality plans have them).
The backward is written out, because three things are cheaper than what autograd does:
- a gate weighs dy, which is narrow, before the products, and not the wide hidden rows; its own gradient is <y, dy> of a place;
- silu(a) * b is computed again from a and b;
- gradients of the gather and of the combine are gathers (gather.py), never scatters.

Shape legend: T rows, D width, F hidden width, E experts of a group, C places of one expert, R places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from momafuse.kernels.gather import places_by_row, sum_places
from momafuse.kernels.weights import GroupWeights


def experts_bmm(
    x: Tensor, rows: Tensor, slots: Tensor, weights: Tensor | None, sizes: Sequence[int], groups: list[GroupWeights]
) -> Tensor:
    """x (T, D), rows (R,), slots (T, n), weights (R,) or None -> y (T, D); `sizes` (E,) places of each expert."""
    by_row, starts = places_by_row(slots, rows.numel())
    stacks = [w for g in groups for w in g]
    y: Tensor = _Experts.apply(x, rows, by_row, starts, weights, _shapes(groups, sizes), *stacks)  # type: ignore[no-untyped-call]
    return y


def swiglu_bmm(x: Tensor, group: GroupWeights) -> Tensor:
    """One expert for every row, without plan: x (T, D) -> (T, D)."""
    y: Tensor = _Experts.apply(x, None, None, None, None, [(1, x.shape[0])], *group)  # type: ignore[no-untyped-call]
    return y


def _shapes(groups: list[GroupWeights], sizes: Sequence[int]) -> list[tuple[int, int]]:
    shapes, e = [], 0
    for g in groups:
        experts = g.gate.shape[0]
        assert len(set(sizes[e : e + experts])) == 1, "bmm needs experts of equal sizes in a group"
        shapes.append((experts, sizes[e]))
        e += experts
    return shapes


def _by_group(places: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """(R, ...) -> views (E, C, ...) of each group."""
    parts = torch.split(places, [e * c for e, c in shapes])
    return [p.view(e, c, *places.shape[1:]) for p, (e, c) in zip(parts, shapes, strict=True)]


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rows: Tensor | None,
        by_row: Tensor | None,
        starts: Tensor | None,
        weights: Tensor | None,
        shapes: list[tuple[int, int]],
        *stacks: Tensor,
    ) -> Tensor:
        xs = x if rows is None else x.index_select(0, rows)
        ys = torch.empty_like(xs)
        kept = []
        for g, (xg, yg) in enumerate(zip(_by_group(xs, shapes), _by_group(ys, shapes), strict=True)):
            gate, up, down = stacks[3 * g : 3 * g + 3]
            a, b = torch.bmm(xg, gate), torch.bmm(xg, up)
            torch.bmm(silu(a) * b, down, out=yg)
            kept += [a, b]
        ctx.shapes = shapes
        ctx.save_for_backward(xs, rows, by_row, starts, weights, None if weights is None else ys, *stacks, *kept)
        if by_row is None or starts is None:
            return ys
        return sum_places(ys, by_row, starts, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        shapes = ctx.shapes
        xs, rows, by_row, starts, weights, ys, *rest = ctx.saved_tensors
        stacks, kept = rest[: 3 * len(shapes)], rest[3 * len(shapes) :]
        dys = dy.contiguous() if rows is None else dy.index_select(0, rows)
        dxs = torch.empty_like(xs)
        dweights = None
        if weights is not None:
            dweights = (ys * dys).sum(-1, dtype=weights.dtype)
            dys *= weights.to(dys.dtype).unsqueeze(-1)
        dstacks: list[Tensor] = []
        per_group = zip(*(_by_group(t, shapes) for t in (xs, dys, dxs)), strict=True)
        for g, (xg, dyg, dxg) in enumerate(per_group):
            gate, up, down = stacks[3 * g : 3 * g + 3]
            a, b = kept[2 * g : 2 * g + 2]
            sa = silu(a)
            h = sa * b
            dh = torch.bmm(dyg, down.transpose(1, 2))
            da = torch.ops.aten.silu_backward(dh * b, a)
            db = dh * sa
            torch.bmm(da, gate.transpose(1, 2), out=dxg)
            dxg.baddbmm_(db, up.transpose(1, 2))
            xt = xg.transpose(1, 2)
            dstacks += [torch.bmm(xt, da), torch.bmm(xt, db), torch.bmm(h.transpose(1, 2), dyg)]
        dx = dxs if rows is None else sum_places(dxs, by_row, starts, None)
        return dx, None, None, None, dweights, None, *dstacks
