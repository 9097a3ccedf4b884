"""Starts the kernels of bulk.py: what serves them, their tiles, their buffers, and both directions of the expert op by them.

Where nothing is said otherwise a figure of a tile is that of the fastest of five for products of these shapes on an H100 SXM
(128 x 256 x 64, 8 warps, 3 stages: 672 to 747 TFLOP/s where cuBLAS has 719 to 785); `up` and `slope`, which keep two results,
take half its width. They are not in the table of tiles: another architecture has other instructions.

Shape legend: R places, E experts of all G groups, P rows of all tiles: at most R / TILE + E tiles, exactly those of the experts
where the host knows their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from momafuse.kernels.triton import bulk, launch
from momafuse.kernels.triton.tiles import INTERPRETED, Tile

HOPPER = 90
WIDE, NARROW = Tile(128, 256, 64, 8, 8, 3, 1), Tile(128, 128, 64, 8, 8, 3, 1)
GATHERED = (16, 256)  # rows and columns that a program of the gather copies


def serves(x: Tensor, stacks: Sequence[Tensor]) -> bool:
    """Whether bulk copies serve these rows (T, D) and SwiGLU stacks: on Hopper, in 16 bits, widths in whole tiles."""
    if x.element_size() != 2 or launch.capability(x.device) != HOPPER:
        return False
    return all(d % NARROW.n == 0 for w in stacks for d in w.shape[1:])  # no set of them: traced sizes cannot be hashed


class Padded(NamedTuple):
    """Places as tiles: where experts begin, and how many rows all tiles have."""

    offsets: Tensor  # (E + 1,)
    experts: tuple[int, ...]  # of each group
    places: int  # R
    tiles: int
    even: bool  # every place is a row of a tile: sizes are known and leave no rest

    @property
    def rows(self) -> int:
        """P"""
        return self.tiles * tile_of("rows").m

    @property
    def constants(self) -> dict[str, Any]:
        first = tuple(sum(self.experts[:g]) for g in range(len(self.experts)))
        return {"FIRST": first, "COUNT": self.experts, "GROUPS": len(first)}


def padded(offsets: Tensor, experts: tuple[int, ...], places: int, sizes: Sequence[int] | None) -> Padded:
    tile = tile_of("rows").m
    if sizes is None:
        return Padded(offsets, experts, places, places // tile + sum(experts), False)
    tiles = sum(-(-n // tile) for n in sizes)
    return Padded(offsets, experts, places, tiles, not any(n % tile for n in sizes))


def tile_of(kernel: str) -> Tile:
    if _interprets():
        return INTERPRETED
    return WIDE if kernel in ("rows", "weights") else NARROW


@cache
def _interprets() -> bool:
    return bool(triton.knobs.runtime.interpret)


def forward(
    x: Tensor, rows: Tensor, weights: Tensor | None, slots: Tensor, stacks: list[Tensor], layout: Padded, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """-> y (T, D), and a and b (P, F) if they are to be kept."""
    gates, ups, downs = stacks[::3], stacks[1::3], stacks[2::3]
    xs, table = gather(x, rows, layout)
    a, b, h = _up(xs, table, layout, gates, ups, keep)
    ys = _rows(h, None, table, layout, downs, None, x.shape[1], transposed=False)
    return _combined(ys, table, layout, slots, weights), [a, b] if keep else []


def backward(
    dy: Tensor, x: Tensor, rows: Tensor, weights: Tensor | None, slots: Tensor, stacks: list[Tensor], ab: tuple[Tensor, Tensor],
    needed: list[bool], layout: Padded,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """-> dx (T, D), dweights (R,) or empty, and the gradient of each stack, empty where it is not needed."""
    gates, ups, downs = stacks[::3], stacks[1::3], stacks[2::3]
    dys, table = gather(dy, rows, layout)
    da, db, h, dweights = _slope(dys, table, layout, downs, *ab, weights)
    dstacks: list[Tensor] = [dy.new_empty(0)] * len(stacks)
    if any(needed[::3]) or any(needed[1::3]):
        xs, _ = gather(x, rows, layout)  # made again: kept, it would be as much memory as the rows of an expert's choice
        dstacks[::3] = _weights(xs, da, table, layout, gates, needed[::3])
        dstacks[1::3] = _weights(xs, db, table, layout, ups, needed[1::3])
    dstacks[2::3] = _weights(h, dys, table, layout, downs, needed[2::3])
    dxs = _rows(da, db, table, layout, gates, ups, dy.shape[1], transposed=True)
    dx = _combined(dxs, table, layout, slots, None)
    return dx, dy.new_empty(0) if dweights is None else dweights, dstacks


def gather(x: Tensor, rows: Tensor, layout: Padded) -> tuple[Tensor, Tensor]:
    """x (T, D), rows (R,) -> xs (P, D), and the table of bulk.py."""
    experts = sum(layout.experts)
    xs = x.new_empty(layout.rows, x.shape[1])
    table = torch.empty(experts + 1 + layout.tiles, dtype=torch.int32, device=x.device)
    m, n = (INTERPRETED.m, INTERPRETED.n) if _interprets() else GATHERED
    tile = tile_of("rows").m
    if layout.tiles and not isinstance(x, FakeTensor):
        bulk.gather_kernel[(layout.rows // m, triton.cdiv(x.shape[1], n))](
            x, rows, layout.offsets, xs, table, x.stride(0), x.shape[1], EXPERTS=experts,
            LANES=triton.next_power_of_2(experts), TILE=tile, BLOCK_M=m, BLOCK_N=n, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return xs, table


def _up(
    xs: Tensor, table: Tensor, layout: Padded, gates: list[Tensor], ups: list[Tensor], keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    widths = tuple(w.shape[2] for w in gates)
    h = xs.new_empty(layout.rows, max(widths))
    a, b = (torch.empty_like(h) if keep else xs.new_empty(0) for _ in "ab")
    _start(
        bulk.bulk_up_kernel, layout.tiles * max(widths), "up",
        xs, table, tuple(gates), tuple(ups), a, b, h, layout.rows, h.shape[1], xs.shape[1],
        N=widths, EXPERTS=sum(layout.experts), KEEP=keep, **layout.constants,
    )  # fmt: skip
    return a, b, h


def _slope(
    dys: Tensor, table: Tensor, layout: Padded, downs: list[Tensor], a: Tensor, b: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    widths = tuple(w.shape[1] for w in downs)
    da, db, h = (torch.empty_like(a) for _ in range(3))
    dots = None if weights is None else weights.new_zeros(max(widths) // tile_of("slope").n, layout.places)
    _start(
        bulk.bulk_slope_kernel, layout.tiles * max(widths), "slope",
        dys, table, layout.offsets, tuple(downs), a, b, weights, da, db, h, dots, layout.rows, layout.places, h.shape[1],
        dys.shape[1], N=widths, EXPERTS=sum(layout.experts), WEIGHTED=weights is not None, **layout.constants,
    )  # fmt: skip
    return da, db, h, None if dots is None else dots.sum(0)


def _rows(
    x: Tensor, x2: Tensor | None, table: Tensor, layout: Padded, matrices: list[Tensor], matrices2: list[Tensor] | None,
    width: int, *, transposed: bool,
) -> Tensor:  # fmt: skip
    depth = 2 if transposed else 1
    y = x.new_empty(layout.rows, width)
    _start(
        bulk.bulk_rows_kernel, layout.tiles * width, "rows",
        x, x if x2 is None else x2, table, tuple(matrices), tuple(matrices2 or matrices), y, layout.rows, x.shape[1], width,
        K=tuple(w.shape[depth] for w in matrices), N=(width,) * len(matrices), EXPERTS=sum(layout.experts), TWO=x2 is not None,
        TRANSPOSED=transposed, **layout.constants,
    )  # fmt: skip
    return y


def _weights(x: Tensor, y: Tensor, table: Tensor, layout: Padded, like: list[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    out = [torch.empty(w.shape if need else 0, dtype=x.dtype, device=x.device) for w, need in zip(like, needed, strict=True)]
    if any(needed):
        _start(
            bulk.bulk_weights_kernel, sum(o.numel() for o in out) // tile_of("weights").m, "weights",
            x, y, table, tuple(out), layout.rows, x.shape[1], y.shape[1],
            M=tuple(w.shape[1] for w in like), N=tuple(w.shape[2] for w in like), NEEDED=tuple(needed), TILE=tile_of("rows").m,
            **layout.constants,
        )  # fmt: skip
    return out


def _combined(ys: Tensor, table: Tensor, layout: Padded, slots: Tensor, weights: Tensor | None) -> Tensor:
    shifted = None if layout.even else (layout.offsets, table, sum(layout.experts), tile_of("rows").m)
    return launch.combine(ys, slots, weights, shifted)


def _start(kernel: Any, work: int, name: str, *args: Any, **constants: Any) -> None:
    """`work`: columns of all tiles of rows together, which is how many tiles there are, times the width of one."""
    tile = tile_of(name)
    if not work or isinstance(args[0], FakeTensor):
        return
    triton.set_allocator(_scratch)  # of this thread: backward has one of its own
    tiles = triton.cdiv(work, tile.n)
    kernel[(min(tiles, launch.processors(args[0].device)),)](
        *args, **constants, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, GROUP_M=tile.band,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
    )  # fmt: skip


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    """Memory for descriptors, of torch's allocator: free again in the order of the stream."""
    return torch.empty(size, dtype=torch.int8, device="cuda")
