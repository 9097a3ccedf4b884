"""QK-norm and rotary positions, tile by tile: a program takes ROWS rows of some heads, one by one, each in two halves.

    forward    a, b -> r g a, r g b -> their rotation                        r = 1 / sqrt(mean(x^2) + eps), in fp32
    backward   the rotation turned back, then through the norm; sums over the tile for the gradient of g

Queries and keys are told apart by the number of the head; the angles of a tile's rows are read once for its heads. Scales are
one (K,) each, or one for each modality, picked by the row's; BY_HEAD, each has a row for every head. rotary.py starts them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _halves(base, at, HALVES: tl.constexpr, inside):
    """Both halves of rows, in fp32."""
    a = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(base + at + HALVES, mask=inside, other=0.0).to(tl.float32)
    return a, b


@triton.jit
def _scale(
    q_scales, k_scales, m: tl.constexpr, is_query, n, j, half: tl.constexpr, QUERIES: tl.constexpr, WIDTH: tl.constexpr,
    BY_HEAD: tl.constexpr,
):  # fmt: skip
    """(HALF,) of the scale of modality m for head n, its columns from `half` on."""
    base = tl.where(is_query, q_scales[m], k_scales[m])
    if BY_HEAD:
        base += tl.where(is_query, n, n - QUERIES) * WIDTH
    return tl.load(base + half + j, mask=j < WIDTH // 2, other=0.0).to(tl.float32)


@triton.jit
def _scales(
    q_scales, k_scales, modality, t, mine, n, j, QUERIES: tl.constexpr, WIDTH: tl.constexpr, SCALES: tl.constexpr,
    BY_HEAD: tl.constexpr,
):  # fmt: skip
    """(ROWS or 1, HALF) twice: the scales of the rows, of both halves; and the modality of each row."""
    is_query = n < QUERIES
    kind = tl.load(modality + t, mask=mine, other=0).to(tl.int32)
    ga = _scale(q_scales, k_scales, 0, is_query, n, j, 0, QUERIES, WIDTH, BY_HEAD)[None, :]
    gb = _scale(q_scales, k_scales, 0, is_query, n, j, WIDTH // 2, QUERIES, WIDTH, BY_HEAD)[None, :]
    for m in tl.static_range(1, SCALES):
        of_m = (kind == m)[:, None]
        ga = tl.where(of_m, _scale(q_scales, k_scales, m, is_query, n, j, 0, QUERIES, WIDTH, BY_HEAD)[None, :], ga)
        gb = tl.where(of_m, _scale(q_scales, k_scales, m, is_query, n, j, WIDTH // 2, QUERIES, WIDTH, BY_HEAD)[None, :], gb)
    return ga, gb, kind


@triton.jit
def _rows(table, T, WIDTH: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr):
    """Rows of this program, its columns, what is inside, and the angles of the rows."""
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, HALF)
    mine = t < T
    inside = mine[:, None] & (j < WIDTH // 2)[None, :]
    cos, sin = _halves(table, t[:, None] * (WIDTH // 2) + j[None, :], T * (WIDTH // 2), inside)
    return t, j, mine, inside, cos, sin


@triton.jit
def _of_kind(t, n, j, QUERIES: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):
    """Where the rows of head n begin in q (T, QUERIES, WIDTH), or in k."""
    heads = tl.where(n < QUERIES, QUERIES, HEADS - QUERIES)
    return (t[:, None] * heads + tl.where(n < QUERIES, n, n - QUERIES)) * WIDTH + j[None, :]


@triton.jit
def forward_kernel(
    x, q_scales, k_scales, modality, table, q, k, T, LDT, LDN,
    QUERIES: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, SCALES: tl.constexpr, BY_HEAD: tl.constexpr,
    EPS: tl.constexpr, ROWS: tl.constexpr, EACH: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """x (T, N, WIDTH), LDT and LDN between rows and heads -> q (T, QUERIES, WIDTH), k (T, N - QUERIES, WIDTH)."""
    t, j, mine, inside, cos, sin = _rows(table, T, WIDTH, ROWS, HALF)
    for n in range(tl.program_id(1) * EACH, tl.minimum(tl.program_id(1) * EACH + EACH, HEADS)):
        a, b = _halves(x, t[:, None] * LDT + n * LDN + j[None, :], WIDTH // 2, inside)
        if SCALES:
            r = 1 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / WIDTH + EPS)
            ga, gb, _ = _scales(q_scales, k_scales, modality, t, mine, n, j, QUERIES, WIDTH, SCALES, BY_HEAD)
            a, b = a * r[:, None] * ga, b * r[:, None] * gb
        y = tl.where(n < QUERIES, q, k)
        to = _of_kind(t, n, j, QUERIES, HEADS, WIDTH)
        tl.store(y + to, (a * cos - b * sin).to(y.dtype.element_ty), mask=inside)
        tl.store(y + to + WIDTH // 2, (a * sin + b * cos).to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    x, q_scales, k_scales, modality, table, dq, dk, dx, parts, T, LDT, LDN,
    QUERIES: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, SCALES: tl.constexpr, BY_HEAD: tl.constexpr,
    EPS: tl.constexpr, ROWS: tl.constexpr, EACH: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dq, dk and x -> dx (T, N, WIDTH) without gaps, parts (tiles, N, SCALES, WIDTH) fp32: sums for the scales."""
    t, j, mine, inside, cos, sin = _rows(table, T, WIDTH, ROWS, HALF)
    for n in range(tl.program_id(1) * EACH, tl.minimum(tl.program_id(1) * EACH + EACH, HEADS)):
        to = _of_kind(t, n, j, QUERIES, HEADS, WIDTH)
        ya, yb = _halves(tl.where(n < QUERIES, dq, dk), to, WIDTH // 2, inside)
        da, db = ya * cos + yb * sin, yb * cos - ya * sin
        if SCALES:
            a, b = _halves(x, t[:, None] * LDT + n * LDN + j[None, :], WIDTH // 2, inside)
            r = (1 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / WIDTH + EPS))[:, None]
            a, b = a * r, b * r
            ga, gb, kind = _scales(q_scales, k_scales, modality, t, mine, n, j, QUERIES, WIDTH, SCALES, BY_HEAD)
            part = parts + ((tl.program_id(0).to(tl.int64) * HEADS + n) * SCALES) * WIDTH + j
            for m in tl.static_range(SCALES):
                of_m = (mine & ((kind == m) | (SCALES == 1)))[:, None]
                tl.store(part + m * WIDTH, tl.sum(tl.where(of_m, da * a, 0.0), 0), mask=j < WIDTH // 2)
                tl.store(part + m * WIDTH + WIDTH // 2, tl.sum(tl.where(of_m, db * b, 0.0), 0), mask=j < WIDTH // 2)
            da, db = da * ga, db * gb
            dot = ((tl.sum(da * a, 1) + tl.sum(db * b, 1)) / WIDTH)[:, None]
            da, db = (da - a * dot) * r, (db - b * dot) * r
        at = (t[:, None] * HEADS + n) * WIDTH + j[None, :]
        tl.store(dx + at, da.to(dx.dtype.element_ty), mask=inside)
        tl.store(dx + at + WIDTH // 2, db.to(dx.dtype.element_ty), mask=inside)
