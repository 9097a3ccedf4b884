"""The discriminator's side of a stage: what it learns, and how it pulls the decoder.

The pull is balanced at the output, picture by picture: with g_r the gradient of the losses of reconstruction there, and g_d
that of -mean D(x'), the decoder gets g_r + weight * g_d * |g_r| / |g_d|. VQGAN's adaptive weight (arXiv 2012.09841, equation 7)
takes these norms at the decoder's last layer, over a batch; at the output they are those of one picture, so a step does not
hang on how it is dealt, and no gathered weight has to be looked into (EnCodec's balancer: arXiv 2210.13438, section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from momafuse.vision.discriminator import hinge
from momafuse.vq.config import DiscriminatorConfig

LEAST = 1e-12  # a norm below which nothing pulls


class Adversary:
    def __init__(self, network: nn.Module, config: DiscriminatorConfig) -> None:
        self.network, self.config = network, config

    def begins(self, step: int) -> bool:
        return step >= self.config.start

    def pull(self, output: Tensor, pulled: Tensor) -> Tensor:
        """`pulled`: the gradient of the reconstruction at the output (N, ..) -> that of both."""
        (pushed,) = torch.autograd.grad(-self.network(output).mean(dim=1).sum(), output)
        theirs, ours = (g.flatten(1).norm(dim=1) for g in (pushed, pulled))
        factor = self.config.weight * ours / theirs.clamp(min=LEAST)
        both: Tensor = pulled + pushed * factor.view(-1, *[1] * (output.ndim - 1))
        return both

    def learn(self, items: Tensor, output: Tensor, weight: int) -> Tensor:
        """Adds the discriminator's gradients of a batch, of its part in the mean over `weight`. -> (N,) losses"""
        real, made = self.network(items), self.network(output.detach())
        found = hinge(real, made)
        (found.sum() / weight).backward()  # type: ignore[no-untyped-call]
        return found.detach()

    def parameters(self) -> Sequence[nn.Parameter]:
        return list(self.network.parameters())
