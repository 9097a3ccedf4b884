"""Next-token cross-entropy with z-loss, in chunks, its gradients made in the forward pass.

    loss = sum_t w_t * (lse_t - logit_t[target_t] + z * lse_t ** 2),    lse = log sum exp logits
    d loss / d logits = w * (p * (1 + 2 z lse) - onehot(target))        (z-loss: Chameleon, arXiv 2405.09818, 1e-5)

The weights w are known before (counts of valid targets come with the batch), so one pass over a chunk of rows gives both the
loss and the gradients, the head is multiplied once, and the (T, V) logits never exist.
Shape legend: T rows, D width, V vocabulary. Does not know modalities: its caller averages the loss per token over them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 23  # logits of a chunk: 32 MiB in fp32


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
        rows = max(1, CHUNK_ELEMENTS // head.shape[0])
        for i in range(0, len(targets), rows):
            part = slice(i, i + rows)
            h, target, w = hidden[part], targets[part].clamp(min=0)[:, None], weights[part].to(wide)
            logits = (h @ head.t()).to(wide)
            log_p = torch.log_softmax(logits, dim=-1)
            lse = logits[:, 0] - log_p[:, 0]
            nll[part] = -log_p.gather(1, target)[:, 0] * (targets[part] >= 0)
            total += (w * (nll[part] + z_loss * lse.square())).sum()
            if dhidden is None and dhead is None:
                continue
            grad = log_p.exp_().mul_((w * (1 + 2 * z_loss * lse))[:, None])
            grad.scatter_add_(1, target, -w[:, None])
            grad = grad.to(hidden.dtype)
            if dhidden is not None:
                dhidden[part] = grad @ head
            if dhead is not None:
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
