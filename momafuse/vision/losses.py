"""What the tokenizer is trained on and judged by: root mean squared pixel error of each picture, PSNR.

The root stands between the squared error, which a few line drawings would rule, and its logarithm, which is PSNR. No adversary
and no perceptual network: at 64 pixels pixel error keeps pictures nameable.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_loss(output: Tensor, target: Tensor) -> Tensor:
    """Root mean squared error of each of (N, 3, H, W) pictures in [-1, 1], averaged over pictures; a scalar."""
    return (output - target).square().mean(dim=(1, 2, 3)).add(1e-6).sqrt().mean()


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """uint8 pictures (N, 3, H, W) twice -> (N,) float64: each picture's mean squared error, on the scale 0..1."""
    return (output.double() - target.double()).div(255).square().mean(dim=(1, 2, 3))


def psnr(error: Tensor) -> Tensor:
    """Mean squared errors on the scale 0..1 -> decibels; a perfect picture counts as 99."""
    return (-10 * torch.log10(error)).clamp(max=99.0)
