"""Which tile a kernel uses: looked up in a small table that ships with the code, never tuned at run time.

Tuning at run time is done by each process alone, so that ranks of one run could pick other tiles, and other roundings.
`tiles.json`, written by scripts/tune_kernels.py: architecture -> kernel -> bits of a number -> bucket -> tile. A bucket says
how many places an expert has on average, which the host knows from R and E. An architecture without an entry takes that of
its first minor version, else that of 8.0, whose tiles are small enough for the shared memory of any later one.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

Kernel = Literal["up", "slope", "rows", "weights"]
BUCKETS = {"few": 0, "many": 512}  # the least number of places an expert
OLDEST = 80
TABLE = Path(__file__).with_name("tiles.json")


class Tile(NamedTuple):
    """BLOCK_M x BLOCK_N of the result a time, BLOCK_K of the inner dimension a step; programs an SM, 0: one for each tile."""

    m: int
    n: int
    k: int
    band: int
    warps: int
    stages: int
    per_sm: int


INTERPRETED = Tile(32, 32, 32, 2, 1, 1, 2)  # small: little tests see several tiles, and few, for the interpreter is slow


def tile_for(kernel: Kernel, capability: int, bits: int, places: int, experts: int) -> Tile:
    """`capability` is 80 for 8.0, 0 for the interpreter; `bits` 16 or 32; `places` the bound R of a plan of `experts`."""
    if not capability:
        return INTERPRETED
    bucket = next(name for name in reversed(BUCKETS) if places >= BUCKETS[name] * experts)
    return _table(capability)[kernel, bits, bucket]


@cache
def _table(capability: int) -> dict[tuple[str, int, str], Tile]:
    table = json.loads(TABLE.read_text())
    if capability < OLDEST:
        raise RuntimeError(f"compute capability {capability / 10} is below {OLDEST / 10}")
    kernels = next(table[str(arch)] for arch in (capability, capability // 10 * 10, OLDEST) if str(arch) in table)
    return {
        (kernel, int(bits), bucket): Tile(**tile)
        for kernel, of_kernel in kernels.items()
        for bits, of_bits in of_kernel.items()
        for bucket, tile in of_bits.items()
    }
