"""Finds the fastest tiles of the Triton kernels on this GPU and writes them into the table that ships with the code.

    python scripts/tune_kernels.py                        every kernel, dtype and bucket: about half an hour
    python scripts/tune_kernels.py --kernels up slope --bits 16 --sizes 435m

For each kernel, width of a number and bucket (momafuse/kernels/triton/tiles.py) all candidates are timed at the shapes of the
sizes, two groups of four experts; the one whose times multiply to the least wins. Candidates that do not fit, or spill
registers, are left out. Only the entry of this GPU's architecture changes. Nothing is tuned when a model runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
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
DTYPES = {16: torch.bfloat16, 32: torch.float32}
Times = dict[Tile, list[float]]


def candidates(bits: int) -> Iterator[Tile]:
    """Tiles worth a try: squarish, with enough work for the warps."""
    for m, n, k in itertools.product((64, 128), (64, 128, 256), (32, 64)):
        for warps, stages, per_sm in itertools.product((4, 8), (3, 4), (0, 1, 2)):
            if m * n // warps >= 1024 and (bits == 16 or k == 32):
                yield Tile(m, n, k, 8, warps, stages, per_sm)


def shapes(sizes: list[str]) -> list[tuple[int, int]]:
    """(D, F) of each size."""
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


def best(times: Times) -> Tile:
    """The one with the least geometric mean among those that every shape allowed."""
    longest = max(len(t) for t in times.values())
    return min((tile for tile, t in times.items() if len(t) == longest), key=lambda tile: sum(map(math.log, times[tile])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=get_args(Kernel), default=list(get_args(Kernel)))
    parser.add_argument("--bits", nargs="+", type=int, choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--sizes", nargs="+", default=["90m", "435m", "1_4b"])
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("tune_kernels: error: torch finds no CUDA device, and tiles are tuned by what they take on one")
    major, minor = torch.cuda.get_device_capability()
    table = json.loads(TABLE.read_text())
    mine = table.setdefault(str(10 * major + minor), {})
    console = Console(stderr=True)
    for kernel, bits, bucket in itertools.product(args.kernels, args.bits, BUCKETS):
        made = [c for d, f in shapes(args.sizes) for c in calls(kernel, d, f, PLACES[bucket], DTYPES[bits])]
        times: Times = {}
        label = f"{kernel} {bits} {bucket}"
        for tile in track(list(candidates(bits)), label, console=console, disable=not sys.stderr.isatty()):
            taken = [timed(tile, call) for call in made]
            times[tile] = [t for t in taken if t is not None]
        mine.setdefault(kernel, {}).setdefault(str(bits), {})[bucket] = best(times)._asdict()
        console.print(f"{label}: {best(times)}, {times[best(times)]} ms")
        TABLE.write_text(json.dumps(table, indent=1) + "\n")  # after each: what was found stays


if __name__ == "__main__":
    main()
