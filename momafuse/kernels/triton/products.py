"""The products, tile by tile: rows of places times the matrix of their expert, and the gradient of that matrix.

    up       a = x[rows] G_e,  b = x[rows] U_e,  h = silu(a) * b          the two products share the rows that they load
    slope    dh = dy[rows] D_e^T, then w * dh goes to da, db and h to w * h; <h, dh> is the gradient of w
    rows     y = x B_e (+ x2 B2_e)                                        rows may be gathered, results scattered
    weights  dW_e = the sum over the places p of e of x[p]^T y[p]

Accumulation is in fp32. A gather costs nothing: the row numbers are part of the addresses that a tile loads from. Places
beyond the last offset are in no expert, so nothing of them is read or written.

Shape legend: T rows, R places, D width, F hidden width; LD* is how far apart two rows of a buffer are. Schedules: schedule.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from momafuse.kernels.triton.schedule import by_expert, locate, pick, places_of


@triton.jit
def _tile_of_matrix(base, k, columns, K, N, TRANSPOSED: tl.constexpr, EVEN_K: tl.constexpr, EVEN_N: tl.constexpr):
    """(BLOCK_K, BLOCK_N) of a matrix (K, N), or of the transpose of a matrix (N, K)."""
    at = base + (columns[None, :] * K + k[:, None] if TRANSPOSED else k[:, None] * N + columns[None, :])
    if EVEN_K and EVEN_N:
        return tl.load(at)
    if EVEN_K:
        return tl.load(at, mask=(columns < N)[None, :], other=0.0)
    if EVEN_N:
        return tl.load(at, mask=(k < K)[:, None], other=0.0)
    return tl.load(at, mask=(k < K)[:, None] & (columns < N)[None, :], other=0.0)


@triton.jit
def _tile_of_rows(starts, k, K, EVEN_K: tl.constexpr):
    """(BLOCK_M, BLOCK_K) from the rows that begin at `starts` (BLOCK_M,)."""
    at = starts[:, None] + k[None, :]
    if EVEN_K:
        return tl.load(at)
    return tl.load(at, mask=(k < K)[None, :], other=0.0)


@triton.jit
def _places(offsets, expert, m, BLOCK_M: tl.constexpr):
    """The places of a tile (BLOCK_M,), which of them are the expert's, and the places to read: all are the expert's."""
    begin, end = tl.load(offsets + expert), tl.load(offsets + expert + 1)
    place = begin + m * BLOCK_M + tl.arange(0, BLOCK_M)
    return place, place < end, tl.minimum(place, end - 1)


@triton.jit
def _inside(place, mine, columns, width, LD, EVEN_N: tl.constexpr):
    """Where a tile of places begins in a buffer, its elements from there (32 bits are enough), and which are the expert's."""
    first = tl.min(place)
    at = (place - first).to(tl.int32)[:, None] * LD + columns[None, :]
    return first.to(tl.int64) * LD, at, mine[:, None] if EVEN_N else mine[:, None] & (columns < width)[None, :]


@triton.jit
def _halves(tile, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The left and the right half of a tile's columns: what follows a product is done a part at a time, for registers."""
    return tl.split(tl.permute(tl.reshape(tile, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))


@triton.jit
def up_kernel(
    x, rows, offsets, gates, ups, a, b, h,
    LDX, LDH, K: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr, GROUPS: tl.constexpr, EXPERTS: tl.constexpr,
    LANES: tl.constexpr, KEEP: tl.constexpr, EVEN_K: tl.constexpr, EVEN_N: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """x (T, K), gates and ups (E_g, K, N_g) -> h (R, LDH) and, if KEEP, a and b."""
    across = tl.cdiv(by_expert(N, FIRST, GROUPS, LANES), BLOCK_N)
    ends = tl.cumsum(tl.cdiv(places_of(offsets, EXPERTS, LANES), BLOCK_M) * across)
    for tile in range(tl.program_id(0), tl.max(ends), tl.num_programs(0)):
        expert, group, m, n = locate(tile, ends, across, FIRST, GROUPS, LANES, GROUP_M)
        width = pick(N, group, GROUPS)
        place, mine, read = _places(offsets, expert, m, BLOCK_M)
        starts = x + tl.load(rows + read).to(tl.int64) * LDX
        columns = n * BLOCK_N + tl.arange(0, BLOCK_N)
        skip = (expert - pick(FIRST, group, GROUPS)).to(tl.int64) * K * width
        gate, up = pick(gates, group, GROUPS) + skip, pick(ups, group, GROUPS) + skip
        sum_a = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        sum_b = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k0 in range(0, K, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            left = _tile_of_rows(starts, k, K, EVEN_K)
            sum_a = tl.dot(left, _tile_of_matrix(gate, k, columns, K, width, False, EVEN_K, EVEN_N), sum_a, PRECISION)
            sum_b = tl.dot(left, _tile_of_matrix(up, k, columns, K, width, False, EVEN_K, EVEN_N), sum_b, PRECISION)
        skip, at, inside = _inside(place, mine, columns, width, LDH, EVEN_N)
        if KEEP:
            tl.store(a + skip + at, sum_a.to(a.dtype.element_ty), mask=inside)
            tl.store(b + skip + at, sum_b.to(b.dtype.element_ty), mask=inside)
        tl.store(h + skip + at, (sum_a * tl.sigmoid(sum_a) * sum_b).to(h.dtype.element_ty), mask=inside)


@triton.jit
def slope_kernel(
    dy, rows, offsets, downs, a, b, weights, da, db, h, dots,
    LDY, LDH, R, K: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr, GROUPS: tl.constexpr, EXPERTS: tl.constexpr,
    LANES: tl.constexpr, WEIGHTED: tl.constexpr, EVEN_K: tl.constexpr, EVEN_N: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """dy (T, K), downs (E_g, N_g, K), a and b (R, LDH) -> da, db, weighted h (R, LDH), dots (tiles across, R) fp32."""
    across = tl.cdiv(by_expert(N, FIRST, GROUPS, LANES), BLOCK_N)
    ends = tl.cumsum(tl.cdiv(places_of(offsets, EXPERTS, LANES), BLOCK_M) * across)
    for tile in range(tl.program_id(0), tl.max(ends), tl.num_programs(0)):
        expert, group, m, n = locate(tile, ends, across, FIRST, GROUPS, LANES, GROUP_M)
        width = pick(N, group, GROUPS)
        place, mine, read = _places(offsets, expert, m, BLOCK_M)
        starts = dy + tl.load(rows + read).to(tl.int64) * LDY
        columns = n * BLOCK_N + tl.arange(0, BLOCK_N)
        down = pick(downs, group, GROUPS) + (expert - pick(FIRST, group, GROUPS)).to(tl.int64) * K * width
        dh = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k0 in range(0, K, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            left = _tile_of_rows(starts, k, K, EVEN_K)
            dh = tl.dot(left, _tile_of_matrix(down, k, columns, K, width, True, EVEN_K, EVEN_N), dh, PRECISION)
        w = tl.load(weights + read) if WEIGHTED else 1.0
        dot = tl.zeros((BLOCK_M,), tl.float32)
        halves = _halves(dh, BLOCK_M, BLOCK_N)
        for half in tl.static_range(2):
            parts = _halves(halves[half], BLOCK_M, BLOCK_N // 2)
            for part in tl.static_range(2):
                columns = n * BLOCK_N + (2 * half + part) * (BLOCK_N // 4) + tl.arange(0, BLOCK_N // 4)
                dot += _slope_of_part(parts[part], w, place, mine, columns, width, a, b, da, db, h, LDH, WEIGHTED, EVEN_N)
        if WEIGHTED:
            tl.store(dots + n.to(tl.int64) * R + place, dot, mask=mine)


@triton.jit
def _slope_of_part(dh, w, place, mine, columns, width, a, b, da, db, h, LDH, WEIGHTED: tl.constexpr, EVEN_N: tl.constexpr):
    """Through silu(a) * b: stores da, db and the weighted h of these columns, and returns their part of <h, dh>."""
    skip, at, inside = _inside(place, mine, columns, width, LDH, EVEN_N)
    av = tl.load(a + skip + at, mask=inside, other=0.0).to(tl.float32)
    bv = tl.load(b + skip + at, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(av)
    hv = av * s * bv
    dot = tl.sum(hv * dh, axis=1)
    if WEIGHTED:
        dh *= w[:, None]
        hv *= w[:, None]
    tl.store(h + skip + at, hv.to(h.dtype.element_ty), mask=inside)
    tl.store(db + skip + at, (dh * av * s).to(db.dtype.element_ty), mask=inside)
    tl.store(da + skip + at, (dh * bv * s * (1 + av * (1 - s))).to(da.dtype.element_ty), mask=inside)
    return dot


@triton.jit
def rows_kernel(
    x, x2, rows, offsets, matrices, matrices2, y,
    LDX, LDY, K: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr, GROUPS: tl.constexpr, EXPERTS: tl.constexpr,
    LANES: tl.constexpr, GATHER: tl.constexpr, SCATTER: tl.constexpr, TWO: tl.constexpr, TRANSPOSED: tl.constexpr,
    EVEN_K: tl.constexpr, EVEN_N: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """x (R or T, LDX), matrices (E_g, K_g, N_g), or (E_g, N_g, K_g) if TRANSPOSED -> y (R or T, LDY); TWO adds x2 matrices2."""
    across = tl.cdiv(by_expert(N, FIRST, GROUPS, LANES), BLOCK_N)
    ends = tl.cumsum(tl.cdiv(places_of(offsets, EXPERTS, LANES), BLOCK_M) * across)
    for tile in range(tl.program_id(0), tl.max(ends), tl.num_programs(0)):
        expert, group, m, n = locate(tile, ends, across, FIRST, GROUPS, LANES, GROUP_M)
        width, depth = pick(N, group, GROUPS), pick(K, group, GROUPS)
        place, mine, read = _places(offsets, expert, m, BLOCK_M)
        start = (tl.load(rows + read) if GATHER else read).to(tl.int64) * LDX
        columns = n * BLOCK_N + tl.arange(0, BLOCK_N)
        skip = (expert - pick(FIRST, group, GROUPS)).to(tl.int64) * depth * width
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        matrix = pick(matrices, group, GROUPS) + skip
        for k0 in range(0, depth, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            right = _tile_of_matrix(matrix, k, columns, depth, width, TRANSPOSED, EVEN_K, EVEN_N)
            total = tl.dot(_tile_of_rows(x + start, k, depth, EVEN_K), right, total, PRECISION)
        if TWO:
            matrix = pick(matrices2, group, GROUPS) + skip
            for k0 in range(0, depth, BLOCK_K):
                k = k0 + tl.arange(0, BLOCK_K)
                right = _tile_of_matrix(matrix, k, columns, depth, width, TRANSPOSED, EVEN_K, EVEN_N)
                total = tl.dot(_tile_of_rows(x2 + start, k, depth, EVEN_K), right, total, PRECISION)
        to = (tl.load(rows + read) if SCATTER else place).to(tl.int64) * LDY
        inside = mine[:, None] & (columns < width)[None, :]
        tl.store(y + to[:, None] + columns[None, :], total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def weights_kernel(
    x, y, rows, offsets, out,
    LDX, LDY, M: tl.constexpr, N: tl.constexpr, NEEDED: tl.constexpr, FIRST: tl.constexpr, GROUPS: tl.constexpr,
    LANES: tl.constexpr, GATHER_X: tl.constexpr, GATHER_Y: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """x (R or T, LDX), y (R or T, LDY) -> out (E_g, M_g, N_g) of each group with NEEDED[g] = experts, not those with 0."""
    lane = tl.arange(0, LANES)
    needed = tl.zeros((LANES,), tl.int32)
    for g in tl.static_range(GROUPS):
        needed = tl.where((lane >= FIRST[g]) & (lane < FIRST[g] + NEEDED[g]), 1, needed)
    across = tl.cdiv(by_expert(N, FIRST, GROUPS, LANES), BLOCK_N)
    ends = tl.cumsum(needed * tl.cdiv(by_expert(M, FIRST, GROUPS, LANES), BLOCK_M) * across)
    for tile in range(tl.program_id(0), tl.max(ends), tl.num_programs(0)):
        expert, group, m, n = locate(tile, ends, across, FIRST, GROUPS, LANES, GROUP_M)
        height, width = pick(M, group, GROUPS), pick(N, group, GROUPS)
        begin, end = tl.load(offsets + expert), tl.load(offsets + expert + 1)
        i = m * BLOCK_M + tl.arange(0, BLOCK_M)
        j = n * BLOCK_N + tl.arange(0, BLOCK_N)
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        place = begin + tl.arange(0, BLOCK_K)
        row = tl.load(rows + place, mask=place < end, other=0)
        for _ in range(begin, end, BLOCK_K):
            mine = place < end
            at_x = (row if GATHER_X else place).to(tl.int64) * LDX
            at_y = (row if GATHER_Y else place).to(tl.int64) * LDY
            left = tl.load(x + at_x[None, :] + i[:, None], mask=mine[None, :] & (i < height)[:, None], other=0.0)
            right = tl.load(y + at_y[:, None] + j[None, :], mask=mine[:, None] & (j < width)[None, :], other=0.0)
            total = tl.dot(left, right, total, PRECISION)
            place += BLOCK_K
            row = tl.load(rows + place, mask=place < end, other=0)  # ahead of their use, so that loads do not wait for loads
        base = pick(out, group, GROUPS) + (expert - pick(FIRST, group, GROUPS)).to(tl.int64) * height * width
        inside = (i < height)[:, None] & (j < width)[None, :]
        tl.store(base + i[:, None] * width + j[None, :], total.to(base.dtype.element_ty), mask=inside)


@triton.jit
def combine_kernel(
    ys, slots, weights, y, offsets, table, T, D, COLUMNS, WEIGHTED: tl.constexpr, EXPERTS: tl.constexpr, TILE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """ys (R, D), slots (T, COLUMNS) -> y (T, D): the (weighted) sum of each row's places, column by column; 0 without one.

    With EXPERTS their places begin at tiles of TILE rows of ys (bulk.py).
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for c in range(COLUMNS):
        place = tl.load(slots + row.to(tl.int64) * COLUMNS + c, mask=row < T, other=-1)
        taken = place >= 0
        at = place
        for e in tl.static_range(EXPERTS):
            begin = tl.load(offsets + e)
            at = tl.where(place >= begin, place - begin + tl.load(table + e).to(tl.int64) * TILE, at)
        part = tl.load(ys + at[:, None] * D + j[None, :], mask=taken[:, None] & (j < D)[None, :], other=0.0).to(tl.float32)
        if WEIGHTED:
            part *= tl.load(weights + place, mask=taken, other=0.0)[:, None]
        total += part
    inside = (row < T)[:, None] & (j < D)[None, :]
    tl.store(y + row[:, None].to(tl.int64) * D + j[None, :], total.to(y.dtype.element_ty), mask=inside)
