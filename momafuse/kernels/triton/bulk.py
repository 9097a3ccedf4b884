"""The products of experts on Hopper (compute capability 9.0): whole tiles, by the bulk copies of its tensor memory accelerator.

    gather   xs = the rows of each expert, one after the other, from whole tiles on; what is left of its last tile is zero
    up       a = xs G_e,  b = xs U_e,  h = silu(a) * b               two products share the tiles of xs
    slope    dh = dys D_e^T, then w * dh goes to da, db and h to w * h; <h, dh> is the gradient of w
    rows     y = x B_e (+ x2 B2_e), B given as it is or transposed
    weights  dW_e = the sum over the rows p of e of x[p]^T y[p]

A bulk copy takes a box of a matrix from or to shared memory by one instruction of one thread. It cannot gather, so rows are
gathered once, which is 2 % of the products, and an expert's rows begin where a tile begins, so that no tile has rows of two
experts and nothing needs a mask. Programs are persistent: each takes every `num_programs`-th tile, through all groups.

`table` (E + 1 + tiles,) int32, written by `gather`: the first tile of rows of each expert and behind the last one, then the
expert of each tile of rows, -1 for none.

Widths are multiples of BLOCK_N of `up` and `slope`; K and M of BLOCK_K and BLOCK_M; who sees to it: bulk_launch.py.
Shape legend: T rows, R places, P rows of all tiles, D width, F hidden width; LD is how far apart two rows of a buffer are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from momafuse.kernels.triton.products import _halves
from momafuse.kernels.triton.schedule import places_of


@triton.jit
def gather_kernel(
    x, rows, offsets, xs, table, LDX, D, EXPERTS: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """x (T, D), rows (R,) -> xs (P, D) and the table; a program gathers BLOCK_M of the TILE rows of a tile."""
    ends = tl.cumsum(tl.cdiv(places_of(offsets, EXPERTS, LANES), TILE))
    lane = tl.arange(0, LANES)
    tile = tl.program_id(0) // (TILE // BLOCK_M)
    expert = tl.sum((ends <= tile).to(tl.int32))
    if tl.program_id(1) == 0:
        tl.store(table + EXPERTS + 1 + tile, tl.where(expert < EXPERTS, expert, -1))
        if tl.program_id(0) == 0:
            tl.store(table + 1 + lane, ends.to(tl.int32), mask=lane < EXPERTS)
            tl.store(table, 0)
    if expert < EXPERTS:
        before = tl.max(tl.where(lane < expert, ends, 0))
        begin, end = tl.load(offsets + expert), tl.load(offsets + expert + 1)
        row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
        place = begin + row - before * TILE
        columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = (place < end)[:, None] & (columns < D)[None, :]
        source = tl.load(rows + place, mask=place < end, other=0).to(tl.int64)
        values = tl.load(x + source[:, None] * LDX + columns[None, :], mask=inside, other=0.0)
        tl.store(xs + row.to(tl.int64)[:, None] * D + columns[None, :], values, mask=(columns < D)[None, :])


@triton.jit
def _first(done):
    """The first of a group's tiles that this program takes, after `done` tiles of the groups before: it goes on in turn."""
    programs = tl.num_programs(0)
    return (tl.program_id(0) + programs - done % programs) % programs


@triton.jit
def _place(t, tall, across, GROUP_M: tl.constexpr):
    """Tile t goes down a band of GROUP_M tiles before it goes right: its row and column among `tall` x `across`."""
    band = t // (GROUP_M * across)
    height = tl.minimum(tall - band * GROUP_M, GROUP_M)
    within = t - band * GROUP_M * across
    return band * GROUP_M + within % height, within // height


@triton.jit
def bulk_up_kernel(
    xs, table, gates, ups, a, b, h, P, LDH, D, N: tl.constexpr, COUNT: tl.constexpr, FIRST: tl.constexpr,
    GROUPS: tl.constexpr, EXPERTS: tl.constexpr, KEEP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """xs (P, D), gates and ups (E_g, D, N_g) -> h (P, LDH) and, if KEEP, a and b."""
    dtype: tl.constexpr = h.dtype.element_ty
    left = tl.make_tensor_descriptor(xs, [P, D], [D, 1], [BLOCK_M, BLOCK_K])
    to_h = tl.make_tensor_descriptor(h, [P, LDH], [LDH, 1], [BLOCK_M, BLOCK_N])
    if KEEP:
        to_a = tl.make_tensor_descriptor(a, [P, LDH], [LDH, 1], [BLOCK_M, BLOCK_N])
        to_b = tl.make_tensor_descriptor(b, [P, LDH], [LDH, 1], [BLOCK_M, BLOCK_N])
    done = 0
    for g in tl.static_range(GROUPS):
        gate = tl.make_tensor_descriptor(gates[g], [COUNT[g] * D, N[g]], [N[g], 1], [BLOCK_K, BLOCK_N])
        up = tl.make_tensor_descriptor(ups[g], [COUNT[g] * D, N[g]], [N[g], 1], [BLOCK_K, BLOCK_N])
        top = tl.load(table + FIRST[g])
        tall, across = tl.load(table + FIRST[g] + COUNT[g]) - top, N[g] // BLOCK_N
        for t in tl.range(_first(done), tall * across, tl.num_programs(0), flatten=True):
            i, j = _place(t, tall, across, GROUP_M)
            depth = (tl.load(table + EXPERTS + 1 + top + i) - FIRST[g]) * D
            row, column = (top + i) * BLOCK_M, j * BLOCK_N
            sum_a = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            sum_b = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for k in range(0, D, BLOCK_K):
                x = left.load([row, k])
                sum_a = tl.dot(x, gate.load([depth + k, column]), sum_a)
                sum_b = tl.dot(x, up.load([depth + k, column]), sum_b)
            if KEEP:
                to_a.store([row, column], sum_a.to(dtype))
                to_b.store([row, column], sum_b.to(dtype))
            to_h.store([row, column], (sum_a * tl.sigmoid(sum_a) * sum_b).to(dtype))
        done += tall * across


@triton.jit
def bulk_slope_kernel(
    dys, table, offsets, downs, a, b, weights, da, db, h, dots, P, R, LDH, D, N: tl.constexpr, COUNT: tl.constexpr,
    FIRST: tl.constexpr, GROUPS: tl.constexpr, EXPERTS: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """dys (P, D), downs (E_g, N_g, D), a and b (P, LDH) -> da, db, weighted h (P, LDH), dots (tiles across, R) fp32."""
    PART: tl.constexpr = BLOCK_N // 4
    left = tl.make_tensor_descriptor(dys, [P, D], [D, 1], [BLOCK_M, BLOCK_K])
    of_a = tl.make_tensor_descriptor(a, [P, LDH], [LDH, 1], [BLOCK_M, PART])
    of_b = tl.make_tensor_descriptor(b, [P, LDH], [LDH, 1], [BLOCK_M, PART])
    to_da = tl.make_tensor_descriptor(da, [P, LDH], [LDH, 1], [BLOCK_M, PART])
    to_db = tl.make_tensor_descriptor(db, [P, LDH], [LDH, 1], [BLOCK_M, PART])
    to_h = tl.make_tensor_descriptor(h, [P, LDH], [LDH, 1], [BLOCK_M, PART])
    done = 0
    for g in tl.static_range(GROUPS):
        down = tl.make_tensor_descriptor(downs[g], [COUNT[g] * N[g], D], [D, 1], [BLOCK_N, BLOCK_K])
        top = tl.load(table + FIRST[g])
        tall, across = tl.load(table + FIRST[g] + COUNT[g]) - top, N[g] // BLOCK_N
        for t in tl.range(_first(done), tall * across, tl.num_programs(0), flatten=True):
            i, j = _place(t, tall, across, GROUP_M)
            expert = tl.load(table + EXPERTS + 1 + top + i)
            row, column = (top + i) * BLOCK_M, j * BLOCK_N
            dh = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for k in range(0, D, BLOCK_K):
                dh = tl.dot(left.load([row, k]), down.load([(expert - FIRST[g]) * N[g] + column, k]).T, dh)
            place = tl.load(offsets + expert) + row - tl.load(table + expert) * BLOCK_M + tl.arange(0, BLOCK_M)
            mine = place < tl.load(offsets + expert + 1)
            w = tl.load(weights + place, mask=mine, other=0.0) if WEIGHTED else 1.0
            halves = _halves(dh, BLOCK_M, BLOCK_N)  # and these again, for registers
            dot = tl.zeros((BLOCK_M,), tl.float32)
            for half in tl.static_range(2):
                parts = _halves(halves[half], BLOCK_M, BLOCK_N // 2)
                for part in tl.static_range(2):
                    at = column + (2 * half + part) * PART
                    dot += _slope_of_part(parts[part], w, row, at, of_a, of_b, to_da, to_db, to_h, WEIGHTED)
            if WEIGHTED:
                tl.store(dots + j.to(tl.int64) * R + place, dot, mask=mine)
        done += tall * across


@triton.jit
def _slope_of_part(dh, w, row, column, of_a, of_b, to_da, to_db, to_h, WEIGHTED: tl.constexpr):
    """Through silu(a) * b: stores da, db and the weighted h of these columns, and returns their part of <h, dh>."""
    dtype: tl.constexpr = to_h.dtype
    av, bv = of_a.load([row, column]).to(tl.float32), of_b.load([row, column]).to(tl.float32)
    s = tl.sigmoid(av)
    hv = av * s * bv
    dot = tl.sum(hv * dh, axis=1)
    if WEIGHTED:
        dh *= w[:, None]
        hv *= w[:, None]
    to_h.store([row, column], hv.to(dtype))
    to_db.store([row, column], (dh * av * s).to(dtype))
    to_da.store([row, column], (dh * bv * s * (1 + av * (1 - s))).to(dtype))
    return dot


@triton.jit
def bulk_rows_kernel(
    x, x2, table, matrices, matrices2, y, P, LDX, LDY, K: tl.constexpr, N: tl.constexpr, COUNT: tl.constexpr,
    FIRST: tl.constexpr, GROUPS: tl.constexpr, EXPERTS: tl.constexpr, TWO: tl.constexpr, TRANSPOSED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """x (P, LDX), matrices (E_g, K_g, N_g), or (E_g, N_g, K_g) if TRANSPOSED -> y (P, LDY); TWO adds x2 matrices2."""
    left = tl.make_tensor_descriptor(x, [P, LDX], [LDX, 1], [BLOCK_M, BLOCK_K])
    left2 = tl.make_tensor_descriptor(x2, [P, LDX], [LDX, 1], [BLOCK_M, BLOCK_K])
    to_y = tl.make_tensor_descriptor(y, [P, LDY], [LDY, 1], [BLOCK_M, BLOCK_N])
    done = 0
    for g in tl.static_range(GROUPS):
        if TRANSPOSED:
            right = tl.make_tensor_descriptor(matrices[g], [COUNT[g] * N[g], K[g]], [K[g], 1], [BLOCK_N, BLOCK_K])
            right2 = tl.make_tensor_descriptor(matrices2[g], [COUNT[g] * N[g], K[g]], [K[g], 1], [BLOCK_N, BLOCK_K])
        else:
            right = tl.make_tensor_descriptor(matrices[g], [COUNT[g] * K[g], N[g]], [N[g], 1], [BLOCK_K, BLOCK_N])
            right2 = tl.make_tensor_descriptor(matrices2[g], [COUNT[g] * K[g], N[g]], [N[g], 1], [BLOCK_K, BLOCK_N])
        top = tl.load(table + FIRST[g])
        tall, across = tl.load(table + FIRST[g] + COUNT[g]) - top, tl.cdiv(N[g], BLOCK_N)
        for t in tl.range(_first(done), tall * across, tl.num_programs(0), flatten=True):
            i, j = _place(t, tall, across, GROUP_M)
            expert = tl.load(table + EXPERTS + 1 + top + i) - FIRST[g]
            row, column = (top + i) * BLOCK_M, j * BLOCK_N
            total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for k in range(0, K[g], BLOCK_K):
                if TRANSPOSED:
                    total = tl.dot(left.load([row, k]), right.load([expert * N[g] + column, k]).T, total)
                else:
                    total = tl.dot(left.load([row, k]), right.load([expert * K[g] + k, column]), total)
            if TWO:
                for k in range(0, K[g], BLOCK_K):
                    if TRANSPOSED:
                        total = tl.dot(left2.load([row, k]), right2.load([expert * N[g] + column, k]).T, total)
                    else:
                        total = tl.dot(left2.load([row, k]), right2.load([expert * K[g] + k, column]), total)
            to_y.store([row, column], total.to(y.dtype.element_ty))
        done += tall * across


@triton.jit
def bulk_weights_kernel(
    x, y, table, out, P, LDX, LDY, M: tl.constexpr, N: tl.constexpr, COUNT: tl.constexpr, NEEDED: tl.constexpr,
    FIRST: tl.constexpr, GROUPS: tl.constexpr, TILE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """x (P, LDX), y (P, LDY) -> out (E_g, M_g, N_g) of each group that is NEEDED; TILE rows make a tile of an expert's."""
    left = tl.make_tensor_descriptor(x, [P, LDX], [LDX, 1], [BLOCK_K, BLOCK_M])
    right = tl.make_tensor_descriptor(y, [P, LDY], [LDY, 1], [BLOCK_K, BLOCK_N])
    done = 0
    for g in tl.static_range(GROUPS):
        if NEEDED[g]:
            to = tl.make_tensor_descriptor(out[g], [COUNT[g] * M[g], N[g]], [N[g], 1], [BLOCK_M, BLOCK_N])
            tall, across = M[g] // BLOCK_M, tl.cdiv(N[g], BLOCK_N)
            for t in tl.range(_first(done), COUNT[g] * tall * across, tl.num_programs(0), flatten=True):
                expert = t // (tall * across)
                i, j = _place(t - expert * tall * across, tall, across, GROUP_M)
                begin, end = tl.load(table + FIRST[g] + expert), tl.load(table + FIRST[g] + expert + 1)
                total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
                for p in range(begin * TILE, end * TILE, BLOCK_K):
                    total = tl.dot(left.load([p, i * BLOCK_M]).T, right.load([p, j * BLOCK_N]), total)
                to.store([expert * M[g] + i * BLOCK_M, j * BLOCK_N], total.to(out[g].dtype.element_ty))
            done += COUNT[g] * tall * across
