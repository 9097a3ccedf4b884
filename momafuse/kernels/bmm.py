"""The expert op as batched matrix products: one `bmm` a projection and group. The product on CPU; any device.

Needs the same number of places for the experts of a group, as host integers (expert choice and by-modality plans have them).
The backward is written out, because three things are cheaper than what autograd does:
- a gate weighs dy, which is narrow, before the products, and not the wide hidden rows; its own gradient is <y, dy> of a place;
- silu(a) * b is computed again from a and b;
- gradients of the gather and of the combine are gathers (gather.py), never scatters.

Both directions are `torch.library` ops (`momafuse::experts_bmm`, `momafuse::experts_bmm_backward`): compile sees one node,
the FLOP counter has their formulas, weights that are frozen get no gradient.

Shape legend: T rows, D width, F hidden width, E experts of a group, C places of one expert, R places, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.utils.flop_counter import register_flop_formula

from momafuse.kernels.gather import places_by_row, sum_places
from momafuse.kernels.weights import GroupWeights


def experts_bmm(
    x: Tensor, rows: Tensor, slots: Tensor, weights: Tensor | None, sizes: Sequence[int], groups: list[GroupWeights]
) -> Tensor:
    """x (T, D), rows (R,), slots (T, n), weights (R,) or None -> y (T, D); `sizes` (E,) places of each expert."""
    by_row, starts = places_by_row(slots, rows.numel())
    y: Tensor = _experts(x, rows, by_row, starts, weights, [w for g in groups for w in g], _places(groups, sizes))[0]
    return y


def swiglu_bmm(x: Tensor, group: GroupWeights) -> Tensor:
    """One expert for every row, without plan: x (T, D) -> (T, D)."""
    y: Tensor = _experts(x, None, None, None, None, list(group), [x.shape[0]])[0]
    return y


def _places(groups: list[GroupWeights], sizes: Sequence[int]) -> list[int]:
    """C of each group."""
    places, e = [], 0
    for g in groups:
        experts = g.gate.shape[0]
        assert len(set(sizes[e : e + experts])) == 1, "bmm needs experts of equal sizes in a group"
        places.append(sizes[e])
        e += experts
    return places


def _by_group(rows: Tensor, stacks: list[Tensor], places: list[int]) -> list[Tensor]:
    """(R, ...) -> views (E, C, ...) of each group."""
    shapes = [(gate.shape[0], c) for gate, c in zip(stacks[::3], places, strict=True)]
    parts = torch.split(rows, [e * c for e, c in shapes])
    return [p.view(e, c, *rows.shape[1:]) for p, (e, c) in zip(parts, shapes, strict=True)]


@torch.library.custom_op("momafuse::experts_bmm", mutates_args=())
def _experts(
    x: Tensor,
    rows: Tensor | None,
    by_row: Tensor | None,
    starts: Tensor | None,
    weights: Tensor | None,
    stacks: list[Tensor],
    places: list[int],
) -> tuple[Tensor, list[Tensor]]:
    """-> y (T, D), and what the backward needs: a and b (E, C, F) of each group, then xs and, with gates, ys (R, D)."""
    xs = x if rows is None else x.index_select(0, rows)
    ys = torch.empty_like(xs, memory_format=torch.contiguous_format)
    kept = []
    for g, (xg, yg) in enumerate(zip(_by_group(xs, stacks, places), _by_group(ys, stacks, places), strict=True)):
        gate, up, down = stacks[3 * g : 3 * g + 3]
        a, b = torch.bmm(xg, gate), torch.bmm(xg, up)
        torch.bmm(silu(a) * b, down, out=yg)
        kept += [a, b]
    if by_row is None:
        return ys, kept
    y = sum_places(ys, by_row, starts, weights)
    return y, [*kept, xs, *([] if weights is None else [ys])]


@_experts.register_fake
def _(
    x: Tensor,
    rows: Tensor | None,
    by_row: Tensor | None,
    starts: Tensor | None,
    weights: Tensor | None,
    stacks: list[Tensor],
    places: list[int],
) -> tuple[Tensor, list[Tensor]]:
    kept = [x.new_empty(gate.shape[0], c, gate.shape[2]) for gate, c in zip(stacks[::3], places, strict=True) for _ in "ab"]
    wide = [] if rows is None else [x.new_empty(rows.shape[0], x.shape[1]) for _ in range(1 if weights is None else 2)]
    return x.new_empty(x.shape), [*kept, *wide]


@torch.library.custom_op("momafuse::experts_bmm_backward", mutates_args=())
def _experts_backward(
    dy: Tensor,
    xs: Tensor,
    ys: Tensor | None,
    rows: Tensor | None,
    by_row: Tensor | None,
    starts: Tensor | None,
    weights: Tensor | None,
    stacks: list[Tensor],
    ab: list[Tensor],
    places: list[int],
    needed: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """-> dx (T, D), dweights (R,) or empty, and the gradient of each stack, empty where it is not needed."""
    dys = dy.contiguous() if rows is None else dy.index_select(0, rows)
    dweights = dy.new_empty(0)
    if weights is not None and ys is not None:
        dweights = (ys * dys).sum(-1, dtype=weights.dtype)
        dys *= weights.to(dys.dtype).unsqueeze(-1)
    dxs = torch.empty_like(xs, memory_format=torch.contiguous_format)
    dstacks: list[Tensor] = []
    for g, (xg, dyg, dxg) in enumerate(zip(*(_by_group(t, stacks, places) for t in (xs, dys, dxs)), strict=True)):
        gate, up, down = stacks[3 * g : 3 * g + 3]
        a, b = ab[2 * g : 2 * g + 2]
        sa = silu(a)
        dh = torch.bmm(dyg, down.transpose(1, 2))
        da = torch.ops.aten.silu_backward(dh * b, a)
        db = dh * sa
        torch.bmm(da, gate.transpose(1, 2), out=dxg)
        dxg.baddbmm_(db, up.transpose(1, 2))
        xt = xg.transpose(1, 2)
        pairs = ((xt, da), (xt, db), ((sa * b).transpose(1, 2), dyg))
        dstacks += [torch.bmm(*p) if n else dy.new_empty(0) for p, n in zip(pairs, needed[3 * g : 3 * g + 3], strict=True)]
    dx = dxs if by_row is None else sum_places(dxs, by_row, starts, None)
    return dx, dweights, dstacks


@_experts_backward.register_fake
def _(
    dy: Tensor,
    xs: Tensor,
    ys: Tensor | None,
    rows: Tensor | None,
    by_row: Tensor | None,
    starts: Tensor | None,
    weights: Tensor | None,
    stacks: list[Tensor],
    ab: list[Tensor],
    places: list[int],
    needed: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    dweights = dy.new_empty(0) if weights is None else weights.new_empty(weights.shape)
    dstacks = [dy.new_empty(s.shape if n else (0,)) for s, n in zip(stacks, needed, strict=True)]
    return dy.new_empty(dy.shape), dweights, dstacks


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    x, rows, by_row, starts, weights, stacks, places = inputs
    kept = output[1]
    ab = kept[: 2 * len(places)]
    xs, ys = (x, None) if rows is None else (kept[len(ab)], None if weights is None else kept[-1])
    ctx.places = places
    ctx.set_materialize_grads(False)  # no zeros, of the size of all that is kept, for outputs that have no gradient
    ctx.save_for_backward(xs, ys, rows, by_row, starts, weights, *stacks, *ab)


def _backward(ctx: Any, dy: Tensor, _: list[Tensor]) -> tuple[Any, ...]:
    xs, ys, rows, by_row, starts, weights, *rest = ctx.saved_tensors
    n = 3 * len(ctx.places)
    needed = list(ctx.needs_input_grad[5])
    dx, dweights, dstacks = _experts_backward(dy, xs, ys, rows, by_row, starts, weights, rest[:n], rest[n:], ctx.places, needed)
    dstacks = [d if need else None for d, need in zip(dstacks, needed, strict=True)]
    return dx, None, None, None, dweights if weights is not None else None, dstacks, None


_experts.register_autograd(_backward, setup_context=_setup_context)


def _products(stacks: list[Any], places: list[int]) -> list[int]:
    """FLOPs of one of the three projections of each group; `stacks` are shapes."""
    return [2 * gate[0] * c * gate[1] * gate[2] for gate, c in zip(stacks[::3], places, strict=True)]


@register_flop_formula(torch.ops.momafuse.experts_bmm)
def _flops(x: Any, rows: Any, by_row: Any, starts: Any, weights: Any, stacks: Any, places: Any, *_: Any, **__: Any) -> int:
    return 3 * sum(_products(stacks, places))


@register_flop_formula(torch.ops.momafuse.experts_bmm_backward)
def _flops_backward(*args: Any, **_: Any) -> int:
    stacks, places, needed = args[7], args[9], args[10]
    return sum(f * (3 + sum(needed[3 * g : 3 * g + 3])) for g, f in enumerate(_products(stacks, places)))
