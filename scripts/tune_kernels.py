"""Finds the fastest tiles of the Triton kernels on this GPU and writes them into the table that ships with the code.

    python scripts/tune_kernels.py                        every kernel, dtype and bucket
    python scripts/tune_kernels.py --kernels up slope --bits 16 --sizes 435m

For each kernel, width of a number and bucket (momafuse/kernels/triton/tiles.py) every candidate is timed at one size, and the
fastest few, as one program a tile and as persistent ones, at the shapes of all sizes, two groups of four experts; the one whose
times multiply to the least wins. Candidates that do not fit, or spill registers, are left out. Kernels are compiled by many
processes before they are timed by one. Only the entry of this GPU's architecture changes. Nothing is tuned when a model runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, get_args
from unittest.mock import patch

import torch
from rich.console import Console
from rich.progress import track

from momafuse.config.compose import compose
from momafuse.kernels.triton.tiles import BUCKETS, TABLE, Kernel, Tile
from momafuse.models.experts import expert_width

EXPERTS, GROUPS = 4, 2
PLACES = {"few": 128, "many": 4096}  # of an expert, one number in each bucket
FINALISTS = 8
PER_SM = (0, 1, 2)  # programs of a persistent grid; 0: one program a tile
DTYPES = {16: torch.bfloat16, 32: torch.float32}
Shape = tuple[int, int]  # (D, F)
Times = dict[Tile, list[float]]
Task = tuple[Kernel, int, Shape, Tile]
Compile = Callable[[Iterable[Task]], Iterable[None]]


def candidates(bits: int) -> Iterator[Tile]:
    """Tiles worth a try: squarish, with enough work for the warps."""
    for m, n, k in itertools.product((64, 128), (64, 128, 256), (32, 64)):
        for warps, stages in itertools.product((4, 8), (3, 4)):
            if m * n // warps >= 1024 and (bits == 16 or k == 32):
                yield Tile(m, n, k, 8, warps, stages, 0)


def shapes(sizes: list[str]) -> list[Shape]:
    models = [compose(["+experiment=dense", f"size={size}"]).config.model for size in sizes]
    return [(m.dim, expert_width(m.ffn, m.ffn_multiple_of)) for m in models]


def calls(kernel: Kernel, d: int, f: int, places: int, dtype: torch.dtype) -> list[Callable[[], Any]]:
    """The launches of a step that this kernel makes, on tensors of their own."""
    from momafuse.kernels.triton import launch

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda").to(dtype)

    e, r = EXPERTS * GROUPS, places * EXPERTS * GROUPS
    offsets = torch.arange(e + 1, device="cuda") * places
    layout = launch.Layout(offsets, (EXPERTS,) * GROUPS, r)
    rows, x, wide, gates = torch.randperm(r, device="cuda"), randn(r, d), randn(r, f), torch.rand(r, device="cuda")
    ups = [randn(EXPERTS, d, f) for _ in range(GROUPS)]
    downs = [randn(EXPERTS, f, d) for _ in range(GROUPS)]
    needed = [True] * GROUPS
    return {
        "up": [lambda: launch.up(x, rows, layout, ups, ups, keep=True)],
        "slope": [lambda: launch.slope(x, rows, layout, downs, wide, wide, gates)],
        "rows": [
            lambda: launch.rows_times(wide, layout, downs, torch.empty_like(x), rows, transposed=False),
            lambda: launch.rows_times(wide, layout, ups, torch.empty_like(x), rows, transposed=True, second=(wide, ups)),
        ],
        "weights": [
            lambda: launch.weights_of(x, wide, layout, rows, ups, needed, gather="x"),
            lambda: launch.weights_of(wide, x, layout, rows, downs, needed, gather="y"),
        ],
    }[kernel]


def timed(tile: Tile, call: Callable[[], Any]) -> float | None:
    """Milliseconds; None where the tile does not fit or spills."""
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    from momafuse.kernels.triton import launch

    made: list[Any] = []

    def start(kernel: Any, grid: Any, tile: Tile, *args: Any, **constants: Any) -> None:
        made.append(real(kernel, grid, tile, *args, **constants))

    real = launch._start
    with patch.object(launch, "tile_for", lambda *_: tile), patch.object(launch, "_start", start):
        try:
            call()
        except OutOfResources:
            return None
    if any(kernel is not None and kernel.n_spills for kernel in made):
        return None
    with patch.object(launch, "tile_for", lambda *_: tile):
        milliseconds: float = do_bench(call, warmup=10, rep=50, return_mode="median")
    return milliseconds


def compile_task(task: Task) -> None:
    """Into Triton's cache, in a process of its own. Few places are enough: their number is not compiled in."""
    from triton.runtime.errors import OutOfResources

    from momafuse.kernels.triton import launch

    kernel, bits, (d, f), tile = task
    with patch.object(launch, "tile_for", lambda *_: tile):
        for call in calls(kernel, d, f, 16, DTYPES[bits]):
            try:
                call()
            except OutOfResources:
                return


def measured(kernel: Kernel, bits: int, places: int, at: list[Shape], tiles: list[Tile], compile_all: Compile) -> Times:
    """Milliseconds of every launch at these shapes, of every tile."""
    label, console = f"{kernel} {bits} bits, {places} places", Console(stderr=True)
    shown = partial(track, console=console, transient=True, disable=not sys.stderr.isatty())
    tasks = [(kernel, bits, shape, tile) for shape in at for tile in tiles]
    for _ in shown(compile_all(tasks), f"{label}: compiling", total=len(tasks)):
        pass
    made = [c for d, f in at for c in calls(kernel, d, f, places, DTYPES[bits])]
    return {tile: [t for t in (timed(tile, c) for c in made) if t is not None] for tile in shown(tiles, f"{label}: timing")}


def tune(kernel: Kernel, bits: int, places: int, at: list[Shape], compile_all: Compile) -> tuple[Tile, list[float]]:
    """The fastest tile, and its times."""
    first = measured(kernel, bits, places, at[len(at) // 2 :][:1], list(candidates(bits)), compile_all)
    finalists = [t._replace(per_sm=n) for t in ranking(first)[:FINALISTS] for n in PER_SM]
    second = measured(kernel, bits, places, at, finalists, compile_all)
    return ranking(second)[0], second[ranking(second)[0]]


def ranking(times: Times) -> list[Tile]:
    """By the geometric mean, those that every shape allowed."""
    longest = max(len(t) for t in times.values())
    return sorted((tile for tile, t in times.items() if len(t) == longest), key=lambda tile: sum(map(math.log, times[tile])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=get_args(Kernel), default=list(get_args(Kernel)))
    parser.add_argument("--bits", nargs="+", type=int, choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--sizes", nargs="+", default=["90m", "435m", "1_4b"])
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that compile; default: one a core")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("tune_kernels: error: torch finds no CUDA device, and tiles are tuned by what they take on one")
    major, minor = torch.cuda.get_device_capability()
    table = json.loads(TABLE.read_text())
    mine = table.setdefault(str(10 * major + minor), {})
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for kernel, bits, bucket in itertools.product(args.kernels, args.bits, BUCKETS):
            compile_all = partial(pool.imap_unordered, compile_task)
            tile, times = tune(kernel, bits, PLACES[bucket], shapes(args.sizes), compile_all)
            mine.setdefault(kernel, {}).setdefault(str(bits), {})[bucket] = tile._asdict()
            print(f"{kernel} {bits} {bucket}: {tile}, {times} ms")
            TABLE.write_text(json.dumps(table, indent=1) + "\n")  # after each: what was found stays


if __name__ == "__main__":
    main()
