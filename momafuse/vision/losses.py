"""What the tokenizer is trained on and judged by: root mean squared pixel error of each picture, PSNR, SSIM.

The root stands between the squared error, which a few line drawings would rule, and its logarithm, which is PSNR. Networks
that judge: perceptual.py, discriminator.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # of SSIM, pixels


def pixel_error(output: Tensor, target: Tensor) -> Tensor:
    """(N, 3, H, W) pictures in [-1, 1] twice -> (N,) root mean squared errors."""
    return (output - target).square().mean(dim=(1, 2, 3)).add(1e-6).sqrt()


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """uint8 pictures (N, 3, H, W) twice -> (N,) float64: each picture's mean squared error, on the scale 0..1."""
    return (output.double() - target.double()).div(255).square().mean(dim=(1, 2, 3))


def psnr(error: Tensor) -> Tensor:
    """Mean squared errors on the scale 0..1 -> decibels; a perfect picture counts as 99."""
    return (-10 * torch.log10(error)).clamp(max=99.0)


def ssim(output: Tensor, target: Tensor) -> Tensor:
    """uint8 pictures (N, 3, H, W) twice, sides of at least 11 -> (N,) float64, the mean over places and channels of

        (2 m_x m_y + C_1) (2 s_xy + C_2) / (m_x^2 + m_y^2 + C_1) (s_x^2 + s_y^2 + C_2),    C_1 = 0.01^2, C_2 = 0.03^2

    under a Gaussian window of 11 pixels, sigma 1.5, where it lies within the picture (Wang et al. 2004).
    """
    x, y = (part.double().div(255).flatten(0, 1)[:, None] for part in (output, target))
    line = torch.exp(-((torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    line = line / line.sum()

    def mean(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))

    mx, my = mean(x), mean(y)
    sx, sy, sxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * mx * my + c1) * (2 * sxy + c2) / ((mx * mx + my * my + c1) * (sx + sy + c2))
    return found.mean(dim=(1, 2, 3)).view(output.shape[:2]).mean(dim=1)
