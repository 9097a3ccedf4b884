"""Which tile of which expert a program computes: read from the offsets on the device, so that no size ever reaches the host.

The rows (or, for gradients of weights, the matrices) of all experts of all groups form one list of tiles. Expert e has
`height[e] / BLOCK_M` times `width[e] / BLOCK_N` of them, both rounded up; every program works out the running sum over the
experts, a vector of a few integers, and takes each `num_programs`-th tile. So one launch serves groups of different widths,
empty experts have no tile, and a grid made from a bound is as right as an exact one. Within an expert tiles go down a band of
GROUP_M rows before they go right: programs that run together then read the same columns of weights, and few rows, from L2.

Groups are told apart by compile-time constants: FIRST[g] is the first expert of group g, sizes are tuples over groups. The
buffers of a group are kernel arguments of their own, picked by a select: a table of pointers would be a copy from the host on
every step, and would hide from the compiler that they are aligned.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pick(values, group, GROUPS: tl.constexpr):
    """values[group], of numbers or of pointers."""
    value = values[0]
    for g in tl.static_range(1, GROUPS):
        value = tl.where(group == g, values[g], value)
    return value


@triton.jit
def by_expert(values, FIRST: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """(LANES,): the value of each expert's group."""
    expert = tl.arange(0, LANES)
    spread = tl.zeros((LANES,), tl.int32)
    for g in tl.static_range(GROUPS):
        spread = tl.where(expert >= FIRST[g], values[g], spread)
    return spread


@triton.jit
def places_of(offsets, EXPERTS: tl.constexpr, LANES: tl.constexpr):
    """(LANES,): how many places each expert has; 0 beyond the last."""
    expert = tl.arange(0, LANES)
    begin = tl.load(offsets + expert, mask=expert < EXPERTS, other=0)
    end = tl.load(offsets + 1 + expert, mask=expert < EXPERTS, other=0)
    return (end - begin).to(tl.int32)


@triton.jit
def locate(tile, ends, across, FIRST: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr, GROUP_M: tl.constexpr):
    """The expert, its group, and the tile's row and column in it; `ends` (LANES,) running sums, `across` (LANES,) columns."""
    lane = tl.arange(0, LANES)
    expert = tl.sum((ends <= tile).to(tl.int32))
    before = tl.max(tl.where(lane < expert, ends, 0))
    columns = tl.sum(tl.where(lane == expert, across, 0))
    down = (tl.sum(tl.where(lane == expert, ends, 0)) - before) // columns
    group = 0
    for g in tl.static_range(1, GROUPS):
        group += (expert >= FIRST[g]).to(tl.int32)
    local = tile - before
    band = local // (GROUP_M * columns)
    tall = tl.minimum(down - band * GROUP_M, GROUP_M)
    within = local - band * GROUP_M * columns
    return expert, group, band * GROUP_M + within % tall, within // tall
