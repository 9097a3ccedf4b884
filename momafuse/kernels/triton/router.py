"""The kernels of choice.py as ops: `momafuse::router_logits` with its backward, and `momafuse::choose_rows`.

The choice is a plan: rows by expert, then pool, then number, their gates, and the places of each row. What is no choice (groups
of one expert) is the caller's (routing/routers.py).

Shape legend: T rows, D width, E experts that choose, P pools, S rows of a pool, R places, n slots a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

MOST_ROWS = 16384  # of a pool: they stand in the registers of one program
MOST_EXPERTS = 64
BLOCK = 64  # rows and columns at a time
PIECE, PIECES = 32, 8  # rows at a time, and how often, whose part of a gradient of weights one program adds up
CHUNK = 1024  # chosen rows that are written at a time
FLAT = 256  # rows of a program that only reads and writes
ANY = 0x7FFFFFFF  # the bits of all modalities
HOW = {"num_warps": 8, "enable_fp_fusion": True}


def _power(n: int) -> int:
    """The power of two that holds n."""
    return 1 << max(n - 1, 0).bit_length()


def router_logits(x: Tensor, weight: Tensor) -> Tensor:
    """x (T, D) in at most 32 bits, weight (E, D) -> (T, E) fp32."""
    z: Tensor = _logits(x, weight)
    return z


@torch.library.custom_op("momafuse::router_logits", mutates_args=())
def _logits(x: Tensor, weight: Tensor) -> Tensor:
    from momafuse.kernels.triton import choice

    x, weight = x if x.stride(-1) == 1 else x.contiguous(), weight.float().contiguous()
    (t, d), e = x.shape, weight.shape[0]
    z = torch.empty(t, e, dtype=torch.float32, device=x.device)
    choice.logits_kernel[(-(-t // BLOCK),)](
        x, weight, z, t, x.stride(0), d, e, BLOCK_M=BLOCK, BLOCK_E=max(16, _power(e)), BLOCK_K=BLOCK, **HOW
    )  # fmt: skip
    return z


@_logits.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=torch.float32)


@torch.library.custom_op("momafuse::router_logits_backward", mutates_args=())
def _logits_backward(dz: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    from momafuse.kernels.triton import choice

    x, w = x if x.stride(-1) == 1 else x.contiguous(), weight.float().contiguous()
    (t, d), e = x.shape, w.shape[0]
    dx = x.new_empty(t, d)
    programs = -(-t // (PIECES * PIECE))
    parts = torch.empty(programs, e, d, dtype=torch.float32, device=x.device)
    choice.logits_backward_kernel[(programs, -(-d // BLOCK))](
        dz.contiguous(), x, w, dx, parts, t, x.stride(0), d, e, PIECES=PIECES, BLOCK_M=PIECE,
        BLOCK_E=max(16, _power(e)), BLOCK_K=BLOCK, **HOW,
    )  # fmt: skip
    return dx, parts.sum(0).to(weight.dtype)


@_logits_backward.register_fake
def _(dz: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor]:
    dx, dweight = _logits_backward(dz, *ctx.saved_tensors)
    return dx, dweight


_logits.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("momafuse::choose_rows", mutates_args=())
def choose_rows(
    z: Tensor, modality: Tensor, pools: int, counts: list[int], served: list[int], starts: list[int], columns: list[int],
    bounds: list[int], slots: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """z (P S, E) fp32, modality (P S) uint8 -> rows (R,) int64, gates (R,), slots (P S, n) int64, -1 where there is none, and
    offsets: `bounds`, where all experts begin and the last one ends (R).

    Expert e takes counts[e] rows of each pool, of the modalities whose bits are set in served[e]; starts[e] is its first place,
    columns[e] its column of slots. Places that no expert of these fills are left for the caller.
    """
    from momafuse.kernels.triton import choice

    t, e = z.shape
    rows = torch.empty(bounds[-1], dtype=torch.int64, device=z.device)
    gates = torch.empty(bounds[-1], dtype=torch.float32, device=z.device)
    by_row = torch.empty(t, slots, dtype=torch.int64, device=z.device)
    offsets = torch.empty(len(bounds), dtype=torch.int64, device=z.device)
    used = [sum(served[i] for i in range(e) if columns[i] == c) for c in range(slots)]  # those of one column share no modality
    block = _power(t // pools)
    choice.choose_kernel[(pools, e)](
        z.contiguous(), modality.contiguous(), rows, gates, by_row, offsets, t // pools, e, SLOTS=slots, COUNTS=tuple(counts),
        SERVED=tuple(served), STARTS=tuple(starts), COLUMNS=tuple(columns), FREE=tuple(ANY & ~bits for bits in used),
        BOUNDS=tuple(bounds), EXPERTS=e, ALL=len(bounds), BLOCK=block, CHUNK=min(block, CHUNK),
        num_warps=min(32, max(4, block // 512)), enable_fp_fusion=True,
    )  # fmt: skip
    return rows, gates, by_row, offsets


@choose_rows.register_fake
def _(
    z: Tensor, modality: Tensor, pools: int, counts: list[int], served: list[int], starts: list[int], columns: list[int],
    bounds: list[int], slots: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows, offsets = (z.new_empty(n, dtype=torch.int64) for n in (bounds[-1], len(bounds)))
    return rows, z.new_empty(bounds[-1]), z.new_empty(z.shape[0], slots, dtype=torch.int64), offsets


@torch.library.custom_op("momafuse::choose_rows_backward", mutates_args=())
def _choose_backward(
    dgates: Tensor, gates: Tensor, slots: Tensor, starts: list[int], ends: list[int], columns: list[int]
) -> Tensor:
    from momafuse.kernels.triton import choice

    t, n = slots.shape
    dz = torch.empty(t, len(starts), dtype=torch.float32, device=gates.device)
    choice.gates_backward_kernel[(-(-t // FLAT),)](
        dgates.contiguous(), gates, slots, dz, t, n, STARTS=tuple(starts), ENDS=tuple(ends), COLUMNS=tuple(columns),
        EXPERTS=len(starts), BLOCK=FLAT, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return dz


@_choose_backward.register_fake
def _(dgates: Tensor, gates: Tensor, slots: Tensor, starts: list[int], ends: list[int], columns: list[int]) -> Tensor:
    return gates.new_empty(slots.shape[0], len(starts))


def _setup_choice(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, pools, counts, _, starts, columns, _, _ = inputs
    rows, gates, slots, offsets = output
    ctx.mark_non_differentiable(rows, slots, offsets)
    ctx.save_for_backward(gates, slots)
    ctx.where = starts, [s + pools * c for s, c in zip(starts, counts, strict=True)], columns


def _backward_of_choice(ctx: Any, _: Any, dgates: Tensor, *__: Any) -> tuple[Any, ...]:
    return _choose_backward(dgates, *ctx.saved_tensors, *ctx.where), *([None] * 8)


choose_rows.register_autograd(_backward_of_choice, setup_context=_setup_choice)


@register_flop_formula(torch.ops.momafuse.router_logits)
def _flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * int(x[0]) * int(x[1]) * int(weight[0])


@register_flop_formula(torch.ops.momafuse.router_logits_backward)
def _flops_backward(dz: Any, x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * _flops(x, weight)
