"""Starts the kernels: sizes of groups as constants, grids from what the host knows, tiles from the table.

A grid is at most the number of tiles that a plan of R places and E experts can have: R / BLOCK_M + E rows of tiles, for an
expert has one broken tile at most. Nothing here reads a tensor.

Shape legend: T rows, R places, E experts of all G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from momafuse.kernels.triton import products
from momafuse.kernels.triton.tiles import Kernel, Tile, tile_for


class Layout(NamedTuple):
    """How the E experts fall into groups, and where their places begin."""

    offsets: Tensor  # (E + 1,)
    experts: tuple[int, ...]  # of each group
    places: int  # R

    @property
    def constants(self) -> dict[str, Any]:
        first = tuple(sum(self.experts[:g]) for g in range(len(self.experts)))
        return {"FIRST": first, "GROUPS": len(first), "LANES": triton.next_power_of_2(sum(self.experts))}

    def tile(self, kernel: Kernel, x: Tensor) -> Tile:
        bits = 8 * x.element_size()
        return tile_for(kernel, capability(x.device), bits, self.places, sum(self.experts))

    def grid(self, tile: Tile, width: int, device: torch.device) -> tuple[int]:
        down = self.places // tile.m + sum(self.experts)
        return _programs(down * triton.cdiv(width, tile.n), tile, device)


def capability(device: torch.device) -> int:
    """80 for compute capability 8.0; 0 on a CPU, which only the interpreter runs on."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def usable(x: Tensor, matrices: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """x with neighbouring columns, matrices without gaps; a copy only where that is not so.

    Raises ValueError for numbers that the kernels do not multiply.
    """
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"trainer.backend=triton: no products in {x.dtype}; write trainer.backend=bmm")
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and not isinstance(x, FakeTensor):
        raise ValueError("triton's interpreter multiplies bfloat16 wrongly; use float16 or float32")
    return x if x.stride(-1) == 1 else x.contiguous(), [w.contiguous() for w in matrices]


def up(
    x: Tensor, rows: Tensor, layout: Layout, gates: Sequence[Tensor], ups: Sequence[Tensor], *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x (T, D), stacks (E_g, D, F_g) -> a, b (R, F) or empty, silu(a) * b (R, F); F is the widest, others use a part."""
    widths = tuple(w.shape[2] for w in gates)
    tile = layout.tile("up", x)
    h = x.new_empty(layout.places, max(widths))
    a, b = (torch.empty_like(h) if keep else x.new_empty(0) for _ in "ab")
    _start(
        products.up_kernel, layout.grid(tile, max(widths), x.device), tile,
        x, rows, layout.offsets, tuple(gates), tuple(ups), a, b, h, x.stride(0), h.stride(0),
        K=x.shape[1], N=widths, EXPERTS=sum(layout.experts), KEEP=keep, **_even(tile, [x.shape[1]], widths), **layout.constants,
    )  # fmt: skip
    return a, b, h


def slope(
    dy: Tensor, rows: Tensor, layout: Layout, downs: Sequence[Tensor], a: Tensor, b: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dy (T, D), downs (E_g, F_g, D), a and b (R, F) -> da, db, weights * silu(a) * b (R, F), the gradient of weights (R,)."""
    widths = tuple(w.shape[1] for w in downs)
    tile = layout.tile("slope", dy)
    da, db, h = (torch.empty_like(a) for _ in range(3))
    dots = None if weights is None else weights.new_zeros(triton.cdiv(max(widths), tile.n), layout.places)
    _start(
        products.slope_kernel, layout.grid(tile, max(widths), dy.device), tile,
        dy, rows, layout.offsets, tuple(downs), a, b, weights, da, db, h, dots, dy.stride(0), a.stride(0), layout.places,
        K=dy.shape[1], N=widths, EXPERTS=sum(layout.experts), WEIGHTED=weights is not None,
        **_even(tile, [dy.shape[1]], widths), **layout.constants,
    )  # fmt: skip
    return da, db, h, None if dots is None else dots.sum(0)


def rows_times(
    x: Tensor, layout: Layout, matrices: Sequence[Tensor], y: Tensor, rows: Tensor, *,
    transposed: bool, gather: bool = False, scatter: bool = False, second: tuple[Tensor, Sequence[Tensor]] | None = None,
) -> Tensor:  # fmt: skip
    """x (R, K), or (T, K) to gather; matrices (E_g, K, N), or (E_g, N, K) -> y (R, N), or (T, N) to scatter, which it fills."""
    depth, width = (2, 1) if transposed else (1, 2)
    depths, widths = (tuple(w.shape[i] for w in matrices) for i in (depth, width))
    tile = layout.tile("rows", x)
    x2, matrices2 = second or (x, matrices)
    _start(
        products.rows_kernel, layout.grid(tile, max(widths), x.device), tile,
        x, x2, rows, layout.offsets, tuple(matrices), tuple(matrices2), y, x.stride(0), y.stride(0),
        K=depths, N=widths, EXPERTS=sum(layout.experts), GATHER=gather, SCATTER=scatter, TWO=second is not None,
        TRANSPOSED=transposed, **_even(tile, depths, widths), **layout.constants,
    )  # fmt: skip
    return y


def weights_of(
    x: Tensor, y: Tensor, layout: Layout, rows: Tensor, like: Sequence[Tensor], needed: Sequence[bool], *, gather: str
) -> list[Tensor]:
    """x (R, M) and y (R, N) -> for each group a tensor as `like` (E_g, M_g, N_g), empty where it is not needed.

    `gather` names what has T rows: "x", "y" or both.
    """
    out = [torch.empty(w.shape if need else 0, dtype=x.dtype, device=x.device) for w, need in zip(like, needed, strict=True)]
    if not any(needed):
        return out
    tile = layout.tile("weights", x)
    shapes = [tuple(w.shape) for w in like]
    count = sum(e * triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n) for e, m, n in (tuple(o.shape) for o in out if o.numel()))
    _start(
        products.weights_kernel, _programs(count, tile, x.device), tile,
        x, y, rows, layout.offsets, tuple(out), x.stride(0), y.stride(0),
        M=tuple(m for _, m, _ in shapes), N=tuple(n for _, _, n in shapes),
        NEEDED=tuple(e if need else 0 for (e, _, _), need in zip(shapes, needed, strict=True)),
        GATHER_X="x" in gather, GATHER_Y="y" in gather, **layout.constants,
    )  # fmt: skip
    return out


def combine(
    ys: Tensor, slots: Tensor, weights: Tensor | None, shifted: tuple[Tensor, Tensor, int, int] | None = None
) -> Tensor:
    """ys (R, D), slots (T, n) -> y (T, D). `shifted`: experts begin at tiles of ys; offsets, table, experts, tile (bulk.py)."""
    t, d = slots.shape[0], ys.shape[1]
    y = ys.new_empty(t, d)
    block = (4, 128) if capability(ys.device) else (16, 16)
    offsets, tables, experts, tile = shifted or (None, None, 0, 0)
    if y.numel() and not isinstance(y, FakeTensor):
        grid = (triton.cdiv(t, block[0]), triton.cdiv(d, block[1]))
        products.combine_kernel[grid](
            ys, slots, weights, y, offsets, tables, t, d, slots.shape[1], WEIGHTED=weights is not None, EXPERTS=experts,
            TILE=tile, BLOCK_M=block[0], BLOCK_N=block[1], num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return y


def _programs(tiles: int, tile: Tile, device: torch.device) -> tuple[int]:
    return (min(tiles, processors(device) * tile.per_sm) if tile.per_sm else tiles,)


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; 1 in the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _even(tile: Tile, depths: Sequence[int], widths: Sequence[int]) -> dict[str, bool]:
    """Whether tiles fit without rest, so that loads need no masks."""
    return {"EVEN_K": not any(d % tile.k for d in depths), "EVEN_N": not any(w % tile.n for w in widths)}


def _start(kernel: Callable[..., Any], grid: tuple[int], tile: Tile, *args: Any, **constants: Any) -> Any:
    """Returns what triton compiled, None if there was nothing to start."""
    if not grid[0] or isinstance(args[0], FakeTensor):  # fake ones ask what is allocated (reports/memory.py)
        return None
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return kernel[grid](  # type: ignore[index]
        *args, **constants, PRECISION=precision, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, GROUP_M=tile.band,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
    )  # fmt: skip
