"""silu(a) * b and its derivative, each in one pass where torch takes two and four.

    h = silu(a) * b;      da = dh b s (1 + a (1 - s)),   db = dh a s,   s = sigmoid(a)           (SwiGLU, arXiv 2002.05202)

Elementwise on tensors without gaps, in fp32 in between. For products that are torch's (kernels/bmm.py); our own have it inside.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # elements of a program
HOW = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def swiglu_kernel(a, b, h, N, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    av, bv = tl.load(a + at, mask=at < N).to(tl.float32), tl.load(b + at, mask=at < N).to(tl.float32)
    tl.store(h + at, (av * tl.sigmoid(av) * bv).to(h.dtype.element_ty), mask=at < N)


@triton.jit
def swiglu_backward_kernel(a, b, dh, db, h, N, BLOCK: tl.constexpr):
    """da goes where dh was."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    av, bv = tl.load(a + at, mask=at < N).to(tl.float32), tl.load(b + at, mask=at < N).to(tl.float32)
    d = tl.load(dh + at, mask=at < N).to(tl.float32)
    s = tl.sigmoid(av)
    tl.store(h + at, (av * s * bv).to(h.dtype.element_ty), mask=at < N)
    tl.store(db + at, (d * av * s).to(db.dtype.element_ty), mask=at < N)
    tl.store(dh + at, (d * bv * s * (1 + av * (1 - s))).to(dh.dtype.element_ty), mask=at < N)


def swiglu(a: Tensor, b: Tensor) -> Tensor:
    """a and b of one shape, contiguous -> h."""
    h = torch.empty_like(a)
    if a.numel():
        swiglu_kernel[(triton.cdiv(a.numel(), BLOCK),)](a, b, h, a.numel(), BLOCK=BLOCK, **HOW)
    return h


def swiglu_backward(a: Tensor, b: Tensor, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, dh of one shape, contiguous -> da, in the memory of dh, db and h."""
    db, h = torch.empty_like(a), torch.empty_like(a)
    if a.numel():
        swiglu_backward_kernel[(triton.cdiv(a.numel(), BLOCK),)](a, b, dh, db, h, a.numel(), BLOCK=BLOCK, **HOW)
    return dh, db, h
