"""The loss of a row of logits and its gradient: one pass for the log-sum-exp, with a running maximum, one for the gradient.

cross_entropy.py starts it.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def loss_kernel(
    logits, targets, weights, nll, lse, z_loss, LD, V: tl.constexpr, NEEDS_GRAD: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """logits (T, V), LD between rows -> nll, lse (T,); the gradient takes the place of the logits."""
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * LD
    target = tl.load(targets + row)
    highest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for first in range(0, V, BLOCK):
        j = first + tl.arange(0, BLOCK)
        x = tl.load(base + j, mask=j < V, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(x, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(x - higher), 0)
        highest = higher
    log_sum = highest + tl.log(total)
    mine = tl.load(base + tl.maximum(target, 0)).to(tl.float32)
    tl.store(lse + row, log_sum)
    tl.store(nll + row, tl.where(target >= 0, log_sum - mine, 0.0))
    if NEEDS_GRAD:
        weight = tl.load(weights + row).to(tl.float32)
        scale = weight * (1 + 2 * z_loss * log_sum)
        for first in range(0, V, BLOCK):
            j = first + tl.arange(0, BLOCK)
            x = tl.load(base + j, mask=j < V, other=float("-inf")).to(tl.float32)
            grad = tl.exp(x - log_sum) * scale - tl.where(j == target, weight, 0.0)
            tl.store(base + j, grad.to(logits.dtype.element_ty), mask=j < V)
