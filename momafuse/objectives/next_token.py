"""Next-token cross-entropy with z-loss, in chunks, its gradients made in the forward pass.

    loss = sum_t w_t * (lse_t - logit_t[target_t] + z * lse_t ** 2),    lse = log sum exp logits
    (z-loss: Chameleon, arXiv 2405.09818, 1e-5)

The weights w are known before (counts of valid targets come with the batch), so one pass over a chunk of rows gives both the
loss and the gradients (kernels/cross_entropy.py), the head is multiplied once, and the (T, V) logits never exist.
Shape legend: T rows, D width, V vocabulary. Does not know modalities: its caller averages the loss per token over them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from momafuse.kernels.cross_entropy import cross_entropy, rows_at_once


class TokenLoss(NamedTuple):
    total: Tensor  # () fp32, differentiable: the weighted sum, z-loss included
    nll: Tensor  # (T,) fp32, cross-entropy in nats of each row; 0 where there is no target


def next_token(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, z_loss: float) -> TokenLoss:
    """hidden (T, D), head (V, D) of one dtype, targets (T,) int64 with -1 for none, weights (T,) fp32."""
    total, nll = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden, head, targets, weights * (targets >= 0), z_loss, torch.is_grad_enabled()
    )
    return TokenLoss(total, nll)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, z_loss: float, needs_grad: bool
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        nll = torch.zeros(targets.shape, dtype=wide, device=hidden.device)
        dhidden = torch.empty_like(hidden) if needs_grad and ctx.needs_input_grad[0] else None
        dhead = torch.zeros(head.shape, dtype=wide, device=head.device) if needs_grad and ctx.needs_input_grad[1] else None
        needs_grad = dhidden is not None or dhead is not None
        rows = rows_at_once(head)
        for i in range(0, len(targets), rows):
            part = slice(i, i + rows)
            h, w = hidden[part], weights[part].to(wide)
            nll[part], lse, grad = cross_entropy(h @ head.t(), targets[part], w, z_loss, needs_grad)
            total += (w * (nll[part] + z_loss * lse.square())).sum()
            if grad is not None and dhidden is not None:
                dhidden[part] = grad @ head
            if grad is not None and dhead is not None:
                dhead += grad.t() @ h
        ctx.save_for_backward(dhidden, None if dhead is None else dhead.to(head.dtype))
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, _: Tensor) -> tuple[Any, ...]:
        dhidden, dhead = ctx.saved_tensors
        grads = [None if d is None else d * dtotal.to(d.dtype) for d in (dhidden, dhead)]
        return *grads, None, None, None, None
