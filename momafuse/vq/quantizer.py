"""Vector quantization on the unit sphere: nearest code, EMA update, restart of dead codes, straight-through gradient.

Codes and inputs are unit vectors, so that the nearest code is the one of largest inner product. The codes are no parameters:
they follow the inputs they serve by an exponential moving average (van den Oord et al., arXiv 1711.00937, appendix A.1; unit
vectors: Yu et al., arXiv 2110.04627):

    n_i <- d n_i + (1 - d) |{x : code(x) = i}|      m_i <- d m_i + (1 - d) sum_{code(x) = i} x      c_i = m_i / |m_i|

A code whose n_i falls below a threshold is dead and restarts at an input of the batch (Dhariwal et al., arXiv 2005.00341).
Shapes: T vectors, C codes, D their width. Knows nothing of what they stand for. The EMA sums stay in the training process;
a weights file holds the codes alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 128  # vectors compared with all codes at a time: the scores stay in the cache


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """(T, D), (C, D) unit vectors -> (T,) int64: the code of largest inner product, the lowest number among equals."""
    return torch.cat([(part @ codes.T).argmax(dim=1) for part in torch.split(vectors, ROWS)])


def straight_through(vectors: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized` with the gradient of `vectors`."""
    return vectors + (quantized - vectors).detach()


def commitment_loss(vectors: Tensor, quantized: Tensor) -> Tensor:
    """Mean squared distance of the unit vectors (..., D) from their codes, which get no gradient; a scalar."""
    return (vectors - quantized.detach()).square().sum(dim=-1).mean()


def spherical_kmeans(vectors: Tensor, count: int, rounds: int, generator: torch.Generator) -> Tensor:
    """(T, D) unit vectors, T >= count -> (count, D) unit centres, from `count` random vectors and `rounds` of Lloyd.

    A centre that serves no vector moves to a random vector.
    """
    assert len(vectors) >= count, f"{count} centres from {len(vectors)} vectors"
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:count]].clone()
    for _ in range(rounds):
        index = nearest(vectors, centres)
        sums = torch.zeros_like(centres).index_add_(0, index, vectors)
        empty = torch.bincount(index, minlength=count) == 0
        sums[empty] = vectors[torch.randint(len(vectors), (int(empty.sum()),), generator=generator)]
        centres = F.normalize(sums, dim=-1)
    return centres


class EMAQuantizer:
    """The codes of a training run and their moving averages; all fp32, on the inputs' device."""

    def __init__(self, codes: Tensor, decay: float, restart_below: float, uses: float) -> None:
        """`codes` (C, D) unit vectors; `uses`: expected uses of a code per step, the counts to start from."""
        self.codes = codes.clone()
        self.decay = decay
        self.restart_below = restart_below
        self.counts = torch.full((len(codes),), uses, device=codes.device)
        self.sums = self.codes * uses

    @torch.no_grad()
    def update(self, vectors: Tensor, index: Tensor) -> None:
        """Moves the codes towards the vectors (T, D) that chose them by `index` (T,)."""
        uses = torch.bincount(index, minlength=len(self.codes)).to(self.counts)
        summed = torch.zeros_like(self.sums).index_add_(0, index, vectors)
        self.counts.lerp_(uses, 1 - self.decay)
        self.sums.lerp_(summed, 1 - self.decay)
        self.codes = F.normalize(self.sums, dim=-1)

    @torch.no_grad()
    def restart(self, vectors: Tensor, generator: torch.Generator) -> int:
        """Puts dead codes onto random vectors of the batch (T, D), each used once; returns how many were moved.

        A restarted code begins at twice the threshold, so that it has time to be chosen.
        """
        dead = (self.counts < self.restart_below).nonzero().flatten()[: len(vectors)]
        if len(dead):
            chosen = vectors[torch.randperm(len(vectors), generator=generator)[: len(dead)]]
            self.codes[dead] = chosen
            self.counts[dead] = 2 * self.restart_below
            self.sums[dead] = 2 * self.restart_below * chosen
        return len(dead)
