"""The expert op in Triton, one launch a product for all groups: sizes stay on the device, nothing waits for them.

    up -> a, b, h = silu(a) * b        rows of x are gathered as they are loaded
    rows -> ys = h D_e                 then each row of y is the weighted sum of its places, in their order

Kept for the backward: x, a and b. h is made from these where dy passes the activation (slope); the outputs of experts are not
kept, for the gradient of a gate is <y, dy> = <h, dh>, and both are at hand there. Where a row has one place at most (a plan by
modality) results go straight to their rows: there is nothing to sum.

Both directions are `torch.library` ops (`momafuse::experts_triton`, `momafuse::experts_triton_backward`). Importing this file
does not import triton; starting an op does.

Shape legend: T rows, D width, F hidden width (the widest group's, in buffers), E experts, R places, n slots a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from momafuse.kernels.weights import GroupWeights


def experts_triton(
    x: Tensor,
    rows: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    slots: Tensor,
    sizes: Sequence[int] | None,
    groups: list[GroupWeights],
) -> Tensor:
    """x (T, D), rows (R,), offsets (E + 1,), weights (R,) or None, slots (T, n) -> y (T, D).

    `sizes` (E,), where the host knows them, serve to count FLOPs, and say that no row is without a place.
    """
    stacks = [w for g in groups for w in g]
    inputs = [x, *stacks] if weights is None else [x, weights, *stacks]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    known = None if sizes is None else list(sizes)
    y: Tensor = _experts(x, rows, offsets, weights, slots, stacks, known, keep)[0]
    return y


def _filled(x: Tensor, slots: Tensor, rows: Tensor, weights: Tensor | None, sizes: list[int] | None) -> Tensor | None:
    """Where every row has one place at most: (T, D) to scatter to, with zeros where a row may have none. Else None."""
    if slots.shape[1] != 1 or weights is not None:
        return None
    shape = slots.shape[0], x.shape[1]
    return x.new_empty(shape) if sizes is not None and rows.numel() == slots.shape[0] else x.new_zeros(shape)


@torch.library.custom_op("momafuse::experts_triton", mutates_args=())
def _experts(
    x: Tensor,
    rows: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    slots: Tensor,
    stacks: list[Tensor],
    sizes: list[int] | None,
    keep: bool,
) -> tuple[Tensor, list[Tensor]]:
    """-> y (T, D), and a and b (R, F) if they are to be kept."""
    from momafuse.kernels.triton import bulk_launch, launch

    x, stacks = launch.usable(x, stacks)
    experts = tuple(w.shape[0] for w in stacks[::3])
    if bulk_launch.serves(x, stacks):
        padded = bulk_launch.padded(offsets, experts, rows.numel(), sizes)
        return bulk_launch.forward(x, rows, weights, slots, stacks, padded, keep)
    layout = launch.Layout(offsets, experts, rows.numel())
    a, b, h = launch.up(x, rows, layout, stacks[::3], stacks[1::3], keep=keep)
    kept = [a, b] if keep else []
    y = _filled(x, slots, rows, weights, sizes)
    if y is not None:
        return launch.rows_times(h, layout, stacks[2::3], y, rows, transposed=False, scatter=True), kept
    ys = launch.rows_times(h, layout, stacks[2::3], x.new_empty(rows.numel(), x.shape[1]), rows, transposed=False)
    return launch.combine(ys, slots, weights), kept


@_experts.register_fake
def _(
    x: Tensor,
    rows: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    slots: Tensor,
    stacks: list[Tensor],
    sizes: list[int] | None,
    keep: bool,
) -> tuple[Tensor, list[Tensor]]:
    from momafuse.kernels.triton import bulk_launch

    wide, places = max(gate.shape[2] for gate in stacks[::3]), rows.shape[0]
    if bulk_launch.serves(x, stacks):
        places = bulk_launch.padded(offsets, tuple(w.shape[0] for w in stacks[::3]), places, sizes).rows
    return x.new_empty(x.shape), [x.new_empty(places, wide) for _ in "ab" if keep]


@torch.library.custom_op("momafuse::experts_triton_backward", mutates_args=())
def _experts_backward(
    dy: Tensor,
    x: Tensor,
    rows: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    slots: Tensor,
    stacks: list[Tensor],
    a: Tensor,
    b: Tensor,
    sizes: list[int] | None,
    needed: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """-> dx (T, D), dweights (R,) or empty, and the gradient of each stack, empty where it is not needed."""
    from momafuse.kernels.triton import bulk_launch, launch

    x, stacks = launch.usable(x, stacks)
    dy, _ = launch.usable(dy, [])
    gates, ups, downs = stacks[::3], stacks[1::3], stacks[2::3]
    experts = tuple(w.shape[0] for w in gates)
    if bulk_launch.serves(x, stacks):
        padded = bulk_launch.padded(offsets, experts, rows.numel(), sizes)
        return bulk_launch.backward(dy, x, rows, weights, slots, stacks, (a, b), needed, padded)
    layout = launch.Layout(offsets, experts, rows.numel())
    da, db, h, dweights = launch.slope(dy, rows, layout, downs, a, b, weights)
    dstacks: list[Tensor] = [dy.new_empty(0)] * len(stacks)
    dstacks[::3] = launch.weights_of(x, da, layout, rows, gates, needed[::3], gather="x")
    dstacks[1::3] = launch.weights_of(x, db, layout, rows, ups, needed[1::3], gather="x")
    dstacks[2::3] = launch.weights_of(h, dy, layout, rows, downs, needed[2::3], gather="y")
    dx = _filled(dy, slots, rows, weights, sizes)
    if dx is not None:
        launch.rows_times(da, layout, gates, dx, rows, transposed=True, second=(db, ups), scatter=True)
    else:
        dxs = dy.new_empty(rows.numel(), dy.shape[1])
        launch.rows_times(da, layout, gates, dxs, rows, transposed=True, second=(db, ups))
        dx = launch.combine(dxs, slots, None)
    return dx, dy.new_empty(0) if dweights is None else dweights, dstacks


@_experts_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    rows: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    slots: Tensor,
    stacks: list[Tensor],
    a: Tensor,
    b: Tensor,
    sizes: list[int] | None,
    needed: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    dweights = dy.new_empty(0) if weights is None else weights.new_empty(weights.shape)
    dstacks = [dy.new_empty(s.shape if n else (0,)) for s, n in zip(stacks, needed, strict=True)]
    return dy.new_empty(dy.shape), dweights, dstacks


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    x, rows, offsets, weights, slots, stacks, sizes, _ = inputs
    ctx.sizes = sizes
    ctx.set_materialize_grads(False)  # no zeros, of the size of all that is kept, for outputs that have no gradient
    ctx.save_for_backward(x, rows, offsets, weights, slots, *output[1], *stacks)


def _backward(ctx: Any, dy: Tensor, _: list[Tensor]) -> tuple[Any, ...]:
    x, rows, offsets, weights, slots, a, b, *stacks = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[5])
    dx, dweights, dstacks = _experts_backward(dy, x, rows, offsets, weights, slots, stacks, a, b, ctx.sizes, needed)
    dstacks = [d if need else None for d, need in zip(dstacks, needed, strict=True)]
    return dx, None, None, dweights if weights is not None else None, None, dstacks, None, None


_experts.register_autograd(_backward, setup_context=_setup_context)


def _products(stacks: list[Any], places: int, sizes: list[int] | None) -> list[int]:
    """FLOPs of one of the three projections of each group, `stacks` being shapes; what only the device knows is counted as if
    the widest group had every place of the plan."""
    gates = stacks[::3]
    if sizes is None:
        widest = max(range(len(gates)), key=lambda g: gates[g][2])
        return [2 * places * gate[1] * gate[2] * (g == widest) for g, gate in enumerate(gates)]
    flops, e = [], 0
    for experts, d, f in gates:
        flops.append(2 * sum(sizes[e : e + experts]) * d * f)
        e += experts
    return flops


@register_flop_formula(torch.ops.momafuse.experts_triton)
def _flops(x: Any, rows: Any, offsets: Any, weights: Any, slots: Any, stacks: Any, sizes: Any, *_: Any, **__: Any) -> int:
    return 3 * sum(_products(stacks, rows[0], sizes))


@register_flop_formula(torch.ops.momafuse.experts_triton_backward)
def _flops_backward(*args: Any, **_: Any) -> int:
    rows, stacks, sizes, needed = args[2], args[6], args[9], args[10]
    return sum(f * (3 + sum(needed[3 * g : 3 * g + 3])) for g, f in enumerate(_products(stacks, rows[0], sizes)))
