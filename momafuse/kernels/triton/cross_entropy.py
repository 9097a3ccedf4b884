"""The op `momafuse::cross_entropy_triton`: a program for each row of logits; kernels/cross_entropy.py says what it computes.

Logits are read twice, for the log-sum-exp and for the gradient, which is written over them. All sums are in fp32 and in one
order. The kernel is in softmax.py.

Shape legend: T rows, V columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK, WARPS = 4096, 8  # columns of a step


def cross_entropy_triton(
    logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float, needs_grad: bool
) -> tuple[Tensor, Tensor]:
    """logits (T, V) with neighbouring columns, overwritten by the gradient if it is needed -> nll, lse (T,) fp32."""
    nll, lse = _cross_entropy(logits, targets, weights, z_loss, needs_grad)
    return nll, lse


@torch.library.custom_op("momafuse::cross_entropy_triton", mutates_args={"logits"})
def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float, needs_grad: bool) -> tuple[Tensor, Tensor]:
    nll, lse = (torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device) for _ in range(2))
    if logits.numel():
        start(logits, targets, weights, nll, lse, z_loss, needs_grad)
    return nll, lse


@_cross_entropy.register_fake
def _(logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float, needs_grad: bool) -> tuple[Tensor, Tensor]:
    nll, lse = (torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device) for _ in range(2))
    return nll, lse


def start(logits: Tensor, targets: Tensor, weights: Tensor, nll: Tensor, lse: Tensor, z_loss: float, needs_grad: bool) -> Any:
    """Returns what triton compiled."""
    from momafuse.kernels.triton import softmax

    assert logits.stride(1) == 1, "products come so"
    return softmax.loss_kernel[(logits.shape[0],)](
        logits, targets.contiguous(), weights.contiguous(), nll, lse, z_loss, logits.stride(0), V=logits.shape[1],
        NEEDS_GRAD=needs_grad, BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
