"""What the tokenizer is trained on and judged by: squared and absolute pixel error, commitment, PSNR.

No adversary and no perceptual network: at 64 pixels squared error keeps pictures nameable, and PSNR is what it maximises.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_loss(output: Tensor, target: Tensor, l1_weight: float) -> Tensor:
    """Mean squared plus weighted mean absolute error of (N, 3, H, W) pictures in [-1, 1]; a scalar."""
    error = output - target
    return error.square().mean() + l1_weight * error.abs().mean()


def commitment_loss(vectors: Tensor, quantized: Tensor) -> Tensor:
    """Mean squared distance of the unit vectors (..., D) from their codes, which get no gradient; a scalar."""
    return (vectors - quantized.detach()).square().sum(dim=-1).mean()


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """uint8 pictures (N, 3, H, W) twice -> (N,) float64: each picture's mean squared error, on the scale 0..1."""
    return (output.double() - target.double()).div(255).square().mean(dim=(1, 2, 3))


def psnr(error: Tensor) -> Tensor:
    """Mean squared errors on the scale 0..1 -> decibels; a perfect picture counts as 99."""
    return (-10 * torch.log10(error)).clamp(max=99.0)
