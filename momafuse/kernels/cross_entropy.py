"""Cross-entropy of rows of logits with z-loss, and its gradient with respect to them, in one go.

    nll_t = lse_t - logit_t[target_t],    lse = log sum exp logits,    0 where there is no target
    d/d logits of sum_t w_t (nll_t + z lse_t ** 2) = w (p (1 + 2 z lse) - onehot(target))

In torch that is half a dozen passes over the widest tensor of a step; on a GPU one kernel reads it twice and writes the
gradient over it. Computes no product and adds up no loss (objectives/next_token.py).

Shape legend: T rows, V columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from momafuse.kernels.capability import triton_serves
from momafuse.kernels.triton.cross_entropy import cross_entropy_triton

CPU_ELEMENTS = 1 << 23  # logits at once: 32 MiB in fp32, about what a cache holds
GPU_ELEMENTS = 1 << 27  # 256 MiB in bf16: each piece adds to the gradient of all of the head, so few are better


def rows_at_once(head: Tensor) -> int:
    """Rows of hidden states whose logits under `head` (V, D) should be made at a time."""
    return max(1, (CPU_ELEMENTS if head.is_cpu else GPU_ELEMENTS) // head.shape[0])


def cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float, needs_grad: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """logits (T, V), which are used up, targets (T,) int64 with -1 for none, weights (T,), 0 where there is no target
    -> nll and lse (T,) in fp32 at least, and the gradient (T, V) in the dtype of the logits, if it is needed."""
    if triton_serves(logits):
        nll, lse = cross_entropy_triton(logits, targets, weights, z_loss, needs_grad)
        return nll, lse, logits if needs_grad else None
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_p = torch.log_softmax(wide, dim=-1)
    lse = wide[:, 0] - log_p[:, 0]
    target = targets.clamp(min=0)[:, None]
    nll = -log_p.gather(1, target)[:, 0] * (targets >= 0)
    if not needs_grad:
        return nll, lse, None
    grad = log_p.exp_().mul_((weights * (1 + 2 * z_loss * lse))[:, None])
    grad.scatter_add_(1, target, -weights[:, None])
    return nll, lse, grad.to(logits.dtype)
