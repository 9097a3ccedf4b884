"""One matrix for each modality, in Triton: rows gathered as they are loaded, results stored where the rows stand.

    y[t] = W_m(t) x[t],    dx[t] = W_m(t)^T dy[t],    dW_m = the sum over rows t of m of dy[t] x[t]^T

The ops `momafuse::grouped_linear_triton` and `momafuse::grouped_linear_triton_backward` serve plans whose sizes only the device
knows, too; kernels/linear.py says what the op is. Nothing but x is kept: no rows are sorted by modality in memory.

Shape legend: T rows, D width of x, N width of y, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def linear_triton(x: Tensor, rows: Tensor, offsets: Tensor, weights: list[Tensor], sizes: Sequence[int] | None) -> Tensor:
    """x (T, D), rows (T,) by modality, offsets (M + 1,), weights M times (N, D) -> y (T, N); every row has one place."""
    y: Tensor = _linear(x, rows, offsets, weights, None if sizes is None else list(sizes))
    return y


@torch.library.custom_op("momafuse::grouped_linear_triton", mutates_args=())
def _linear(x: Tensor, rows: Tensor, offsets: Tensor, weights: list[Tensor], sizes: list[int] | None) -> Tensor:
    from momafuse.kernels.triton import launch

    x, weights = launch.usable(x, weights)
    layout = launch.Layout(offsets, (1,) * len(weights), rows.numel())
    y = x.new_empty(x.shape[0], weights[0].shape[0])
    matrices = [w.unsqueeze(0) for w in weights]
    return launch.rows_times(x, layout, matrices, y, rows, transposed=True, gather=True, scatter=True)


@_linear.register_fake
def _(x: Tensor, rows: Tensor, offsets: Tensor, weights: list[Tensor], sizes: list[int] | None) -> Tensor:
    return x.new_empty(x.shape[0], weights[0].shape[0])


@torch.library.custom_op("momafuse::grouped_linear_triton_backward", mutates_args=())
def _linear_backward(
    dy: Tensor, x: Tensor, rows: Tensor, offsets: Tensor, weights: list[Tensor], sizes: list[int] | None, needed: list[bool]
) -> tuple[Tensor, list[Tensor]]:
    """-> dx (T, D), and the gradient of each matrix, empty where it is not needed."""
    from momafuse.kernels.triton import launch

    x, weights = launch.usable(x, weights)
    dy, _ = launch.usable(dy, [])
    layout = launch.Layout(offsets, (1,) * len(weights), rows.numel())
    matrices = [w.unsqueeze(0) for w in weights]
    dx = launch.rows_times(dy, layout, matrices, x.new_empty(x.shape), rows, transposed=False, gather=True, scatter=True)
    dweights = launch.weights_of(dy, x, layout, rows, matrices, needed, gather="xy")
    return dx, [d.squeeze(0) if n else d for d, n in zip(dweights, needed, strict=True)]


@_linear_backward.register_fake
def _(
    dy: Tensor, x: Tensor, rows: Tensor, offsets: Tensor, weights: list[Tensor], sizes: list[int] | None, needed: list[bool]
) -> tuple[Tensor, list[Tensor]]:
    return dy.new_empty(x.shape), [dy.new_empty(w.shape if n else (0,)) for w, n in zip(weights, needed, strict=True)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, rows, offsets, weights, sizes = inputs
    ctx.sizes = sizes
    ctx.save_for_backward(x, rows, offsets, *weights)


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, rows, offsets, *weights = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[3])
    dx, dweights = _linear_backward(dy, x, rows, offsets, weights, ctx.sizes, needed)
    return dx, None, None, [d if need else None for d, need in zip(dweights, needed, strict=True)], None


_linear.register_autograd(_backward, setup_context=_setup_context)


def _places(weights: list[Any], rows: Any, sizes: list[int] | None) -> list[int]:
    """Rows of each modality; all in the first where only the device knows: the matrices are of one shape."""
    return sizes if sizes is not None else [rows[0]] + [0] * (len(weights) - 1)


@register_flop_formula(torch.ops.momafuse.grouped_linear_triton)
def _flops(x: Any, rows: Any, offsets: Any, weights: Any, sizes: Any, *_: Any, **__: Any) -> int:
    return sum(2 * n * w[0] * w[1] for n, w in zip(_places(weights, rows, sizes), weights, strict=True))


@register_flop_formula(torch.ops.momafuse.grouped_linear_triton_backward)
def _flops_backward(*args: Any, **_: Any) -> int:
    rows, weights, sizes, needed = args[2], args[4], args[5], args[6]
    places = _places(weights, rows, sizes)
    return sum(2 * n * w[0] * w[1] * (1 + need) for n, w, need in zip(places, weights, needed, strict=True))
