"""Logits of routers from rows as they are, and a whole plan by expert choice in one kernel.

    z = x W^T in fp32, rows of x widened as they are loaded
    expert e takes, of the rows of each pool that it serves, the C_e with the largest z_e, equal ones in order of number
    its gate of such a row is sigmoid(z_e)

The C-th largest is found bit by bit: 32 counts of how many are at least a candidate, over numbers that stand in registers; no
sort, no atomics, the same each time. What is launched, and its ops: router.py.

Shape legend: T rows, D width, E experts that choose, P pools, S rows of a pool, R places, n slots a row.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def logits_kernel(x, w, z, T, LDX, D, E, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr):
    """x (T, D), w (E, D) fp32 -> z (T, E) fp32."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    e, at = tl.arange(0, BLOCK_E), row.to(tl.int64)
    total = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    for k0 in range(0, D, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        left = tl.load(x + at[:, None] * LDX + k[None, :], mask=(row < T)[:, None] & (k < D)[None, :], other=0.0)
        right = tl.load(w + e[None, :] * D + k[:, None], mask=(e < E)[None, :] & (k < D)[:, None], other=0.0)
        total = tl.dot(left.to(tl.float32), right, total, "ieee")
    tl.store(z + at[:, None] * E + e[None, :], total, mask=(row < T)[:, None] & (e < E)[None, :])


@triton.jit
def logits_backward_kernel(
    dz, x, w, dx, parts, T, LDX, D, E, PIECES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """dz (T, E), x (T, D), w (E, D) -> dx (T, D), and of PIECES * BLOCK_M rows together their part of dw: parts (.., E, D)."""
    k, e = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_E)
    weight = tl.load(w + e[:, None] * D + k[None, :], mask=(e < E)[:, None] & (k < D)[None, :], other=0.0)
    total = tl.zeros((BLOCK_E, BLOCK_K), tl.float32)
    for piece in range(PIECES):
        row = (tl.program_id(0) * PIECES + piece) * BLOCK_M + tl.arange(0, BLOCK_M)
        at, inside = row.to(tl.int64), (row < T)[:, None] & (k < D)[None, :]
        slope = tl.load(dz + at[:, None] * E + e[None, :], mask=(row < T)[:, None] & (e < E)[None, :], other=0.0)
        left = tl.load(x + at[:, None] * LDX + k[None, :], mask=inside, other=0.0).to(tl.float32)
        total = tl.dot(tl.trans(slope), left, total, "tf32x3")
        back = tl.dot(slope, weight, input_precision="tf32x3").to(dx.dtype.element_ty)
        tl.store(dx + at[:, None] * D + k[None, :], back, mask=inside)
    base = parts + tl.program_id(0).to(tl.int64) * E * D
    tl.store(base + e[:, None] * D + k[None, :], total, mask=(e < E)[:, None] & (k < D)[None, :])


@triton.jit
def in_order(z, kinds, row, inside, served, expert, E):
    """-> z as numbers that are ordered as unsigned ones, 0 where the expert does not serve the row; z; the rows' modalities."""
    kind = tl.load(kinds + row, mask=inside, other=31).to(tl.int32)
    mine = inside & (((served >> kind) & 1) != 0)
    value = tl.load(z + row * E + expert, mask=mine, other=0.0) + 0.0  # -0 becomes 0
    bits = value.to(tl.uint32, bitcast=True)
    ordered = tl.maximum(tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000), 1)
    return tl.where(mine, ordered, 0), value, kind


@triton.jit
def choose_kernel(
    z, kinds, rows, gates, slots, offsets, S, E, SLOTS: tl.constexpr, COUNTS: tl.constexpr, SERVED: tl.constexpr,
    STARTS: tl.constexpr, COLUMNS: tl.constexpr, FREE: tl.constexpr, BOUNDS: tl.constexpr, EXPERTS: tl.constexpr,
    ALL: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """z (P S, E), modality of each row `kinds` (P S) -> rows (R,), gates (R,), slots (P S, SLOTS), of one expert in one pool.

    Of expert e: COUNTS[e] rows of each pool, whose modality's bit is set in SERVED[e]; its places begin at STARTS[e], its
    place of a row goes to column COLUMNS[e]. FREE[c]: bits of the modalities whose rows no expert here serves in column c.
    offsets (ALL,): BOUNDS, on the device.
    """
    pool, expert = tl.program_id(0), tl.program_id(1)
    if (pool == 0) & (expert == 0):
        for e in tl.static_range(ALL):
            tl.store(offsets + e, BOUNDS[e])
    count, served, start, column = 0, 0, 0, 0
    for e in tl.static_range(EXPERTS):
        count = tl.where(expert == e, COUNTS[e], count)
        served = tl.where(expert == e, SERVED[e], served)
        start = tl.where(expert == e, STARTS[e], start)
        column = tl.where(expert == e, COLUMNS[e], column)
    i = tl.arange(0, BLOCK)
    ordered, _, _ = in_order(z, kinds, pool * S + i, i < S, served, expert, E)
    least = tl.zeros((), tl.uint32)  # the largest number that at least `count` are not below
    for b in range(32):
        candidate = least | (tl.full((), 0x80000000, tl.uint32) >> b)
        least = tl.where(tl.sum((ordered >= candidate).to(tl.int32)) >= count, candidate, least)
    left = count - tl.sum((ordered > least).to(tl.int32))  # how many of those that equal it
    place = start + pool * count
    for first in range(0, BLOCK, CHUNK):  # a part at a time, read again: all of it would not fit into registers
        j = first + tl.arange(0, CHUNK)
        row = pool * S + j
        number, value, kind = in_order(z, kinds, row, j < S, served, expert, E)
        same = ((number == least) & (number > 0)).to(tl.int32)
        taken = (number > least) | ((same > 0) & (tl.cumsum(same) <= left))
        left -= tl.sum(same)
        to = place + tl.cumsum(taken.to(tl.int32)) - 1
        place += tl.sum(taken.to(tl.int32))
        tl.store(rows + to, row, mask=taken)
        tl.store(gates + to, tl.sigmoid(value), mask=taken)
        tl.store(slots + row * SLOTS + column, tl.where(taken, to, -1), mask=number > 0)
        if expert == 0:
            for c in tl.static_range(SLOTS):
                tl.store(slots + row * SLOTS + c, -1, mask=(j < S) & (((FREE[c] >> kind) & 1) != 0))


@triton.jit
def gates_backward_kernel(
    dgates, gates, slots, dz, T, SLOTS, STARTS: tl.constexpr, ENDS: tl.constexpr, COLUMNS: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """dgates and gates (R,), slots (T, SLOTS) -> dz (T, EXPERTS): 0 where the expert did not take the row."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for e in tl.static_range(EXPERTS):
        place = tl.load(slots + row * SLOTS + COLUMNS[e], mask=row < T, other=-1)
        mine = (place >= STARTS[e]) & (place < ENDS[e])
        gate = tl.load(gates + place, mask=mine, other=0.0)
        slope = tl.load(dgates + place, mask=mine, other=0.0)
        tl.store(dz + row * EXPERTS + e, slope * gate * (1 - gate), mask=row < T)
