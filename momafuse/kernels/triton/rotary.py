"""The op `momafuse::norm_rotate`: QK-norm and rotary positions of queries and keys, one kernel forward and one backward.

kernels/rotary.py says what it computes. Kept for the backward: x, scales, modality and table; the norms are computed again. The
gradient of a scale is summed by tiles of rows and heads, then over the tiles: no atomics, so it is the same in every run.

Shape legend: B sequences, S positions, T = B * S, N heads (H of queries), K width of a head, M scales of queries and of keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

EACH = 8  # heads of a program


def norm_rotate_triton(
    x: Tensor, queries: int, scales: list[Tensor], modality: Tensor, table: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x (B, S, N, K), scales M of queries and M of keys (K,) or none, or (H, K) and (N - H, K), modality (B, S), table
    (2, B, 1, S, K / 2) fp32
    -> q (B, H, S, K), k (B, N - H, S, K), the rows of a position side by side: attention's result is then laid out so, too."""
    q, k = _norm_rotate(x, queries, scales, modality, table, eps)
    return q, k


@torch.library.custom_op("momafuse::norm_rotate", mutates_args=())
def _norm_rotate(
    x: Tensor, queries: int, scales: list[Tensor], modality: Tensor, table: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    from momafuse.kernels.triton.rotation import forward_kernel

    q, k = _outputs(x, queries)
    if not isinstance(x, FakeTensor) and x.numel():
        _start(forward_kernel, x, queries, scales, modality, table, eps, (_by_row(q), _by_row(k)))
    return q, k


@_norm_rotate.register_fake
def _(x: Tensor, queries: int, scales: list[Tensor], modality: Tensor, table: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _outputs(x, queries)


@torch.library.custom_op("momafuse::norm_rotate_backward", mutates_args=())
def _norm_rotate_backward(
    dq: Tensor, dk: Tensor, x: Tensor, queries: int, scales: list[Tensor], modality: Tensor, table: Tensor, eps: float
) -> tuple[Tensor, list[Tensor]]:
    """-> dx (B, S, N, K), and the gradient of each scale."""
    from momafuse.kernels.triton.rotation import backward_kernel

    b, s, n, width = x.shape
    dx = x.new_empty(x.shape)
    tiles = -(-b * s // rows_of(width))
    parts = x.new_empty(tiles, n, len(scales) // 2, width, dtype=torch.float32)
    if not isinstance(x, FakeTensor) and x.numel():
        _start(backward_kernel, x, queries, scales, modality, table, eps, (*map(_by_row, (dq, dk)), dx, parts))
    over = 0 if _by_head(scales) else (0, 1)
    sums = [own.sum(over).unbind(-2) for own in (parts[:, :queries], parts[:, queries:])]
    return dx, [row.to(scale.dtype, copy=True) for row, scale in zip([*sums[0], *sums[1]], scales, strict=True)]


@_norm_rotate_backward.register_fake
def _(
    dq: Tensor, dk: Tensor, x: Tensor, queries: int, scales: list[Tensor], modality: Tensor, table: Tensor, eps: float
) -> tuple[Tensor, list[Tensor]]:
    return x.new_empty(x.shape), [scale.new_empty(scale.shape) for scale in scales]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, queries, scales, modality, table, eps = inputs
    ctx.queries, ctx.eps = queries, eps
    ctx.save_for_backward(x, modality, table, *scales)


def _backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Any, ...]:
    x, modality, table, *scales = ctx.saved_tensors
    dx, dscales = _norm_rotate_backward(dq, dk, x, ctx.queries, scales, modality, table, ctx.eps)
    dscales = [d if need else None for d, need in zip(dscales, ctx.needs_input_grad[2], strict=True)]
    return dx, None, dscales, None, None, None


_norm_rotate.register_autograd(_backward, setup_context=_setup_context)


def rows_of(width: int) -> int:
    """Rows of a program: as many as registers hold of heads of this width, without spills."""
    return min(32, max(1, 2048 // (1 << (width - 1).bit_length())))


def _by_head(scales: list[Tensor]) -> bool:
    """Whether every head has scales of its own."""
    return bool(scales) and scales[0].dim() > 1


def _outputs(x: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    b, s, n, width = x.shape
    q, k = (x.new_empty(b, s, heads, width).transpose(1, 2) for heads in (queries, n - queries))
    return q, k


def _by_row(x: Tensor) -> Tensor:
    """x (B, H, S, K) -> (B, S, H, K) without gaps: of `_outputs` a view, a copy only where attention's backward laid its result
    out otherwise."""
    return x.transpose(1, 2).contiguous()


def _start(
    kernel: Any,
    x: Tensor,
    queries: int,
    scales: list[Tensor],
    modality: Tensor,
    table: Tensor,
    eps: float,
    last: tuple[Tensor, ...],
) -> Any:
    """A program for each tile of rows and some heads; `last` are the kernel's own arguments. Returns what triton compiled."""
    import triton

    b, s, n, width = x.shape
    if x.stride(3) != 1 or x.stride(0) != s * x.stride(1):
        x = x.contiguous()
    m, rows = len(scales) // 2, rows_of(width)
    scales = [scale.contiguous() for scale in scales]  # heads lie K apart
    return kernel[(triton.cdiv(b * s, rows), triton.cdiv(n, EACH))](
        x, tuple(scales[:m]), tuple(scales[m:]), modality.contiguous(), table.contiguous(), *last, b * s, x.stride(1),
        x.stride(2), QUERIES=queries, HEADS=n, WIDTH=width, SCALES=m, BY_HEAD=_by_head(scales), EPS=eps, ROWS=rows, EACH=EACH,
        HALF=triton.next_power_of_2(width // 2), num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
