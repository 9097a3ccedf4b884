"""How the codes of a vector quantizer move while it is trained, and how dead ones are brought back.

    ema      they follow the vectors that they serve by a moving average (van den Oord et al., arXiv 1711.00937, appendix A.1):
                 n_i <- d n_i + (1 - d) |{v : code(v) = i}|     m_i <- d m_i + (1 - d) sum_{code(v) = i} v
                 c_i = m_i / n_i, on the sphere m_i / |m_i|
    learned  they are parameters, drawn to their vectors by a term of the loss (the same paper, equation 3)
    sim      c_i = W a_i with W learned and a_i drawn once and fixed: whichever code is chosen, all of them move
             (SimVQ: Zhu et al., arXiv 2411.02038)

A code whose n_i falls below a threshold is dead and restarts at a vector of the batch (Dhariwal et al., arXiv 2005.00341);
`sim` has nothing to restart. Shapes: T vectors, C codes, D their width; all fp32. The moving averages are buffers, part of
the module's state; a tokenizer's file holds the codes alone.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momafuse.vq.codes import nearest, place
from momafuse.vq.config import QuantizerConfig, Space


class Uses(NamedTuple):
    """How often each code was chosen (C,), and the sum of the vectors that chose it (C, D)."""

    counts: Tensor
    sums: Tensor


def uses(vectors: Tensor, index: Tensor, count: int) -> Uses:
    """Of vectors (T, D) that chose codes 0..count-1 by `index` (T,)."""
    sums = vectors.new_zeros(count, vectors.shape[1])
    sums.index_put_((index,), vectors, accumulate=True)  # not index_add_, which adds in another order each time on a GPU
    return Uses(torch.bincount(index, minlength=count).to(sums), sums)


class Codebook(nn.Module):
    counts: Tensor  # (C,) EMA of uses a step
    dead: Tensor  # (), uses a step below which a code is dead

    def __init__(self, count: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.space: Space = config.space
        self.decay, self.restart_below = config.code_decay, config.restart_below
        self.register_buffer("counts", torch.zeros(count))
        self.register_buffer("dead", torch.zeros(()))

    @abstractmethod
    def table(self) -> Tensor:
        """(C, D) codes, with a gradient where they have one."""

    @abstractmethod
    def put(self, numbers: Tensor, vectors: Tensor) -> None:
        """Makes the codes of these numbers (n,) these vectors (n, D), where codes live."""

    @property
    def restarts(self) -> bool:
        return self.restart_below > 0

    @torch.no_grad()
    def begin(self, uses: float, codes: Tensor | None) -> None:
        """Before the first choice: a step makes `uses` choices a code; `codes` (C, D) are taken instead of those drawn."""
        self.dead.fill_(self.restart_below * uses)
        self.counts.fill_(2 * self.dead)
        if codes is not None:
            self.put(torch.arange(len(codes), device=codes.device), codes)

    @torch.no_grad()
    def update(self, uses: Uses) -> None:
        """Takes note of a step's choices, those of all ranks."""
        self.counts.lerp_(uses.counts, 1 - self.decay)

    def doomed(self, most: int) -> Tensor:
        """(n,) numbers of dead codes, at most so many."""
        return (self.counts < self.dead).nonzero().flatten()[:most]

    @torch.no_grad()
    def restart(self, dead: Tensor, vectors: Tensor) -> None:
        """Puts the codes of these numbers (n,) onto vectors (n, D) of the step.

        A restarted code begins at twice the threshold, so that it has time to be chosen.
        """
        self.counts[dead] = 2 * self.dead
        self.put(dead, vectors)


class EMACodebook(Codebook):
    codes: Tensor
    sums: Tensor

    def __init__(self, count: int, dim: int, config: QuantizerConfig) -> None:
        super().__init__(count, config)
        self.register_buffer("codes", drawn(count, dim, config.space))
        self.register_buffer("sums", torch.zeros(count, dim))

    def table(self) -> Tensor:
        return self.codes

    def begin(self, uses: float, codes: Tensor | None) -> None:
        super().begin(uses, codes)
        if not self.restarts:
            self.counts.fill_(uses)
        self.sums.copy_(self.codes * self.counts[:, None])

    def put(self, numbers: Tensor, vectors: Tensor) -> None:
        self.codes[numbers] = vectors
        self.sums[numbers] = vectors * self.counts[numbers, None]

    @torch.no_grad()
    def update(self, uses: Uses) -> None:
        super().update(uses)
        self.sums.lerp_(uses.sums, 1 - self.decay)
        moved = self.sums if self.space == "sphere" else self.sums / self.counts[:, None].clamp(min=1e-6)
        self.codes.copy_(place(moved, self.space))


class LearnedCodebook(Codebook):
    def __init__(self, count: int, dim: int, config: QuantizerConfig) -> None:
        super().__init__(count, config)
        self.codes = nn.Parameter(drawn(count, dim, config.space))

    def table(self) -> Tensor:
        return place(self.codes, self.space)

    def put(self, numbers: Tensor, vectors: Tensor) -> None:
        self.codes.data[numbers] = vectors


class SimCodebook(Codebook):
    fixed: Tensor

    def __init__(self, count: int, dim: int, config: QuantizerConfig) -> None:
        super().__init__(count, config)
        self.register_buffer("fixed", torch.randn(count, dim) * dim**-0.5)
        self.basis = nn.Parameter(torch.eye(dim))

    def table(self) -> Tensor:
        return place(self.fixed @ self.basis, self.space)

    @property
    def restarts(self) -> bool:
        return False

    def put(self, numbers: Tensor, vectors: Tensor) -> None:
        raise AssertionError("codes that are all moved by one matrix cannot be put anywhere")


def build_codebook(count: int, dim: int, config: QuantizerConfig) -> Codebook:
    """Of any kind but `fsq`, which has none."""
    if config.kind == "ema":
        return EMACodebook(count, dim, config)
    return (LearnedCodebook if config.kind == "learned" else SimCodebook)(count, dim, config)


def drawn(count: int, dim: int, space: Space) -> Tensor:
    """(C, D) first codes: directions, or in the plane U(-1/C, 1/C) as VQGAN's (arXiv 2012.09841, its published code)."""
    if space == "sphere":
        return F.normalize(torch.randn(count, dim), dim=-1)
    return torch.empty(count, dim).uniform_(-1 / count, 1 / count)


def kmeans(vectors: Tensor, count: int, rounds: int, generator: torch.Generator, space: Space = "sphere") -> Tensor:
    """(T, D) vectors where codes live, T >= count -> (count, D) centres, from `count` random vectors and `rounds` of Lloyd.

    A centre that serves no vector moves to a random vector.
    """
    assert len(vectors) >= count, f"{count} centres from {len(vectors)} vectors"
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:count]].clone()
    for _ in range(rounds):
        index = nearest(vectors, centres, space)
        sums = torch.zeros_like(centres).index_add_(0, index, vectors)
        served = torch.bincount(index, minlength=count)
        empty = served == 0
        sums[empty] = vectors[torch.randint(len(vectors), (int(empty.sum()),), generator=generator)]
        centres = place(sums, space) if space == "sphere" else sums / served.clamp(min=1)[:, None]
    return centres
