"""The network that is to tell pictures from what is left of them, patch by patch (PatchGAN: Isola et al., arXiv 1611.07004,
as VQGAN has it, arXiv 2012.09841), with group norms: those of a batch would hang on how a step is dealt to ranks.

    L_D = mean relu(1 - D(x)) / 2 + mean relu(1 + D(x')) / 2        the hinge, over pictures x and what is left of them, x'
    pull of the decoder: the gradient of -mean D(x') at x'

Shapes: pictures (N, 3, S, S) in [-1, 1] -> (N, patches) judgements, high for pictures. When it begins and how strongly it
pulls is the stage's (tokenizers/adversary.py).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from momafuse.vq.config import GROUPS, DiscriminatorConfig

MOST = 8  # times the channels of the first layer


class PatchDiscriminator(nn.Module):
    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for number in range(1, config.layers + 1):
            wider, stride = config.channels * min(2**number, MOST), 2 if number < config.layers else 1
            layers += [nn.Conv2d(width, wider, 4, stride, 1, bias=False), nn.GroupNorm(GROUPS, wider), nn.LeakyReLU(0.2)]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.layers(pictures)
        return out.flatten(1).float()


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """Judgements (N, patches) of pictures, and of what is left of them -> (N,) what the discriminator learns by."""
    return 0.5 * (F.relu(1 - real).mean(dim=1) + F.relu(1 + made).mean(dim=1))
