"""The expert op as products of torch, one a projection and group: `bmm`, the product on CPU, or `grouped_mm`; any device.

Both need sizes as host integers. `bmm` is one product where the experts of a group have equal numbers of places (expert choice
and by-modality plans do), else one an expert; `grouped_mm` reads from offsets where each expert ends, so that the experts of a
group may differ. The backward is written out, because three things are cheaper than what autograd does:
- a gate weighs dy, which is narrow, before the products, and not the wide hidden rows; its own gradient is <y, dy> of a place;
- silu(a) * b is computed again from a and b, on a GPU in one pass with its derivative (triton/activation.py);
- gradients of the gather and of the combine are gathers (gather.py), never scatters.

Both directions are `torch.library` ops (`momafuse::experts_bmm`, `momafuse::experts_bmm_backward`): compile sees one node,
the FLOP counter has their formulas, weights that are frozen get no gradient.

Shape legend: T rows, D width, F hidden width, E experts of a group, C places of one expert, N places of a group, R of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, silu
from torch.utils.flop_counter import register_flop_formula

from momafuse.kernels.capability import triton_serves
from momafuse.kernels.gather import places_by_row, sum_places
from momafuse.kernels.weights import GroupWeights

Ends = Tensor | list[int] | None


def experts_bmm(
    x: Tensor,
    rows: Tensor,
    slots: Tensor,
    weights: Tensor | None,
    sizes: Sequence[int],
    groups: list[GroupWeights],
    offsets: Tensor | None = None,
    used: int | None = None,
) -> Tensor:
    """x (T, D), rows (R,), slots (T, n), weights (R,) or None -> y (T, D); `sizes` (E,) places of each expert.

    `offsets` (E + 1,) where experts begin: given, it is torch's grouped_mm that multiplies. `used`: how many places are in
    slots, where not all are; the others weigh 0.
    """
    by_row, starts = places_by_row(slots, rows.numel() if used is None else used)
    y: Tensor = _experts(x, rows, by_row, starts, weights, [w for g in groups for w in g], list(sizes), offsets)[0]
    return y


def swiglu_bmm(x: Tensor, group: GroupWeights) -> Tensor:
    """One expert for every row, without plan: x (T, D) -> (T, D)."""
    y: Tensor = _experts(x, None, None, None, None, list(group), [x.shape[0]], None)[0]
    return y


def _of_groups(sizes: list[int], experts: list[int]) -> list[list[int]]:
    """The sizes of each group's experts."""
    ends = list(accumulate(experts))
    return [sizes[end - n : end] for end, n in zip(ends, experts, strict=True)]


def _counts(sizes: list[int], stacks: list[Tensor]) -> list[int]:
    """N of each group."""
    return [sum(mine) for mine in _of_groups(sizes, [gate.shape[0] for gate in stacks[::3]])]


def _ends(offsets: Tensor | None, sizes: list[int], stacks: list[Tensor]) -> list[Ends]:
    """Of each group: None where its experts have equal sizes, else the sizes; with offsets (E,) int32, where experts end among
    the group's own places."""
    ends: list[Ends] = []
    e = 0
    for mine in _of_groups(sizes, [gate.shape[0] for gate in stacks[::3]]):
        if offsets is not None:
            ends.append((offsets[e + 1 : e + len(mine) + 1] - offsets[e]).to(torch.int32))
        else:
            ends.append(None if len(set(mine)) == 1 else mine)
        e += len(mine)
    return ends


def _times(x: Tensor, w: Tensor, ends: Ends, out: Tensor | None = None, *, add: bool = False) -> Tensor:
    """x (N, K), w (E, K, J) -> (N, J): the rows of each expert by its own matrix; into `out`, or onto it."""
    if ends is None:
        e = w.shape[0]
        xs = x.view(e, x.shape[0] // e, x.shape[1])
        if out is None:
            return torch.bmm(xs, w).view(x.shape[0], w.shape[2])
        into = out.view(e, x.shape[0] // e, w.shape[2])
        _ = into.baddbmm_(xs, w) if add else torch.bmm(xs, w, out=into)
        return out
    if isinstance(ends, list):
        into = x.new_empty(x.shape[0], w.shape[2]) if out is None else out
        for xe, we, ye in zip(torch.split(x, ends), w, torch.split(into, ends), strict=True):
            _ = ye.addmm_(xe, we) if add else torch.mm(xe, we, out=ye)
        return into
    y = grouped_mm(x, w, offs=ends)
    if out is None:
        return y
    return out.add_(y) if add else out.copy_(y)


def _transposed_times(x: Tensor, y: Tensor, ends: Ends, e: int) -> Tensor:
    """x (N, K), y (N, J) -> (E, K, J): the sum over the rows of an expert of x^T y."""
    if ends is None:
        return torch.bmm(x.view(e, x.shape[0] // e, x.shape[1]).transpose(1, 2), y.view(e, y.shape[0] // e, y.shape[1]))
    if isinstance(ends, list):
        sums = x.new_empty(e, x.shape[1], y.shape[1])
        for xe, ye, out in zip(torch.split(x, ends), torch.split(y, ends), sums, strict=True):
            torch.mm(xe.t(), ye, out=out)
        return sums
    return grouped_mm(x.t(), y, offs=ends)


def _activated(a: Tensor, b: Tensor) -> Tensor:
    """silu(a) * b"""
    if triton_serves(a):
        from momafuse.kernels.triton.activation import swiglu

        return swiglu(a, b)
    return silu(a).mul_(b)


def _slope(a: Tensor, b: Tensor, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b and the gradient dh of h = silu(a) * b, which is used up -> the gradients of a and b, and h."""
    if triton_serves(a):
        from momafuse.kernels.triton.activation import swiglu_backward

        return swiglu_backward(a, b, dh)
    sa = silu(a)
    db = dh * sa
    h, dh = sa.mul_(b), dh.mul_(b)  # in place: memory that is fresh costs as much as the arithmetic
    return torch.ops.aten.silu_backward.grad_input(dh, a, grad_input=dh), db, h


@torch.library.custom_op("momafuse::experts_bmm", mutates_args=())
def _experts(
    x: Tensor,
    rows: Tensor | None,
    by_row: Tensor | None,
    starts: Tensor | None,
    weights: Tensor | None,
    stacks: list[Tensor],
    sizes: list[int],
    offsets: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """-> y (T, D), and what the backward needs: a and b (N, F) of each group, then xs and, with gates, ys (R, D)."""
    xs = x if rows is None else x.index_select(0, rows)
    ys = torch.empty_like(xs, memory_format=torch.contiguous_format)
    kept = []
    parts = (torch.split(t, _counts(sizes, stacks)) for t in (xs, ys))
    for g, (xg, yg, ends) in enumerate(zip(*parts, _ends(offsets, sizes, stacks), strict=True)):
        gate, up, down = stacks[3 * g : 3 * g + 3]
        a, b = _times(xg, gate, ends), _times(xg, up, ends)
        _times(_activated(a, b), down, ends, yg)
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
    sizes: list[int],
    offsets: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    counts = _counts(sizes, stacks)
    kept = [x.new_empty(n, gate.shape[2]) for gate, n in zip(stacks[::3], counts, strict=True) for _ in "ab"]
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
    sizes: list[int],
    offsets: Tensor | None,
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
    parts = (torch.split(t, _counts(sizes, stacks)) for t in (xs, dys, dxs))
    for g, (xg, dyg, dxg, ends) in enumerate(zip(*parts, _ends(offsets, sizes, stacks), strict=True)):
        gate, up, down = stacks[3 * g : 3 * g + 3]
        a, b = ab[2 * g : 2 * g + 2]
        da, db, h = _slope(a, b, _times(dyg, down.transpose(1, 2), ends))
        _times(da, gate.transpose(1, 2), ends, dxg)
        _times(db, up.transpose(1, 2), ends, dxg, add=True)
        pairs = ((xg, da), (xg, db), (h, dyg))
        for pair, need in zip(pairs, needed[3 * g : 3 * g + 3], strict=True):
            dstacks.append(_transposed_times(*pair, ends, gate.shape[0]) if need else dy.new_empty(0))
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
    sizes: list[int],
    offsets: Tensor | None,
    needed: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    dweights = dy.new_empty(0) if weights is None else weights.new_empty(weights.shape)
    dstacks = [dy.new_empty(s.shape if n else (0,)) for s, n in zip(stacks, needed, strict=True)]
    return dy.new_empty(dy.shape), dweights, dstacks


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    x, rows, by_row, starts, weights, stacks, sizes, offsets = inputs
    kept = output[1]
    ab = kept[: 2 * (len(stacks) // 3)]
    xs, ys = (x, None) if rows is None else (kept[len(ab)], None if weights is None else kept[-1])
    ctx.sizes, ctx.stacks = sizes, len(stacks)
    ctx.set_materialize_grads(False)  # no zeros, of the size of all that is kept, for outputs that have no gradient
    ctx.save_for_backward(xs, ys, rows, by_row, starts, weights, offsets, *stacks, *ab)


def _backward(ctx: Any, dy: Tensor, _: list[Tensor]) -> tuple[Any, ...]:
    xs, ys, rows, by_row, starts, weights, offsets, *rest = ctx.saved_tensors
    n = ctx.stacks
    stacks, ab, needed = rest[:n], rest[n:], list(ctx.needs_input_grad[5])
    dx, dweights, dstacks = _experts_backward(
        dy, xs, ys, rows, by_row, starts, weights, stacks, ab, ctx.sizes, offsets, needed
    )  # fmt: skip
    dstacks = [d if need else None for d, need in zip(dstacks, needed, strict=True)]
    return dx, None, None, None, dweights if weights is not None else None, dstacks, None, None


_experts.register_autograd(_backward, setup_context=_setup_context)


def _products(stacks: list[Any], sizes: list[int]) -> list[int]:
    """FLOPs of one of the three projections of each group; `stacks` are shapes."""
    counts = map(sum, _of_groups(sizes, [gate[0] for gate in stacks[::3]]))
    return [2 * n * gate[1] * gate[2] for gate, n in zip(stacks[::3], counts, strict=True)]


@register_flop_formula(torch.ops.momafuse.experts_bmm)
def _flops(x: Any, rows: Any, by_row: Any, starts: Any, weights: Any, stacks: Any, sizes: Any, *_: Any, **__: Any) -> int:
    return 3 * sum(_products(stacks, sizes))


@register_flop_formula(torch.ops.momafuse.experts_bmm_backward)
def _flops_backward(*args: Any, **_: Any) -> int:
    stacks, sizes, needed = args[7], args[9], args[11]
    return sum(f * (3 + sum(needed[3 * g : 3 * g + 3])) for g, f in enumerate(_products(stacks, sizes)))
