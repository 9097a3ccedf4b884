"""Quantizers between the halves of an autoencoder: each vector becomes one of C codes, and the decoder gets the code.

`VectorQuantizer`: the nearest of codes that move (codebooks.py), with a gradient past the choice (estimators.py) and

    loss = b |v - sg(c)|^2  [ + |sg(v) - c|^2 where codes are learned ]          (arXiv 1711.00937, equation 3)

`FiniteScalar`: every number of tanh(v) is rounded to one of so many levels, evenly spaced in [-1, 1]; the grid is the codebook,
nothing is learned and nothing can collapse (FSQ: Mentzer et al., arXiv 2309.15505; ours bounds by tanh alone, without the
half-step shift that the paper has for even numbers of levels, and its levels include both ends).

Shapes: N items, L codes each, D their width. Knows nothing of what is encoded, nor when to update (tokenizers/stage.py).
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from momafuse.errors import UserError
from momafuse.vq.autoencoder import Coded
from momafuse.vq.codebooks import Uses, build_codebook, kmeans, uses
from momafuse.vq.codes import CodeTable, nearest, place
from momafuse.vq.config import QuantizerConfig
from momafuse.vq.estimators import rotated, straight_through

KMEANS_VECTORS_PER_CODE = 8
KMEANS_ROUNDS = 8


class Choice(NamedTuple):
    codes: Tensor  # (N, L) int64
    vectors: Tensor  # (N, L, D), what the decoder gets
    loss: Tensor  # (), what is added to that of reconstruction


class Quantizer(nn.Module):
    wants: int  # vectors of the encoder that `begin` needs

    @abstractmethod
    def forward(self, vectors: Tensor) -> Choice:
        """(N, L, D) fp32, as the encoder gives them."""

    @abstractmethod
    def table(self) -> CodeTable:
        """The codes as they stand, without a gradient."""

    @abstractmethod
    def place(self, vectors: Tensor) -> Tensor:
        """What the decoder gets where nothing is quantised yet: (N, L, D)."""

    def begin(self, uses: float, vectors: Tensor, generator: torch.Generator) -> None:
        """Before the first choice: a step makes `uses` choices a code; `vectors` (T, D), T >= `wants`, of the encoder."""

    def uses(self, vectors: Tensor, codes: Tensor) -> Uses | None:
        """What `update` wants to know of the vectors (N, L, D) that chose `codes` (N, L); None where nothing moves so."""
        return None

    def update(self, uses: Uses) -> None:
        """After a step, by what all ranks chose."""

    def doomed(self, most: int) -> Tensor:
        """(n,) numbers of codes that are to be restarted, at most so many."""
        return torch.zeros(0, dtype=torch.int64)

    def restart(self, dead: Tensor, vectors: Tensor) -> None:
        """Puts the codes of these numbers onto vectors (n, D) of the step, as the encoder gives them."""


class VectorQuantizer(Quantizer):
    def __init__(self, count: int, dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook = build_codebook(count, dim, config)
        self.wants = KMEANS_VECTORS_PER_CODE * count if config.first == "kmeans" else 0

    def place(self, vectors: Tensor) -> Tensor:
        return place(vectors, self.config.space)

    def table(self) -> CodeTable:
        return CodeTable(self.codebook.table().detach().clone(), self.config.space)

    def begin(self, uses: float, vectors: Tensor, generator: torch.Generator) -> None:
        codes = None
        if self.wants:
            count = len(self.codebook.counts)
            codes = kmeans(self.place(vectors), count, KMEANS_ROUNDS, generator, self.config.space)
        self.codebook.begin(uses, codes)

    def forward(self, vectors: Tensor) -> Choice:
        placed, table = self.place(vectors), self.codebook.table()
        index = nearest(placed.detach().flatten(0, 1), table.detach(), self.config.space)
        quantized = table[index].view_as(placed)
        loss = self.config.commitment_weight * squared_distance(placed, quantized.detach())
        if quantized.requires_grad:
            loss = loss + squared_distance(placed.detach(), quantized)
        passed = (rotated if self.config.estimator == "rotation" else straight_through)(placed, quantized)
        return Choice(index.view(vectors.shape[:-1]), passed, loss)

    def uses(self, vectors: Tensor, codes: Tensor) -> Uses:
        return uses(self.place(vectors.detach()).flatten(0, 1), codes.flatten(), len(self.codebook.counts))

    def update(self, uses: Uses) -> None:
        self.codebook.update(uses)

    def doomed(self, most: int) -> Tensor:
        return self.codebook.doomed(most) if self.codebook.restarts else super().doomed(most)

    def restart(self, dead: Tensor, vectors: Tensor) -> None:
        self.codebook.restart(dead, self.place(vectors))


class FiniteScalar(Quantizer):
    wants = 0
    grid: Tensor  # (C, D)
    steps: Tensor  # (D,) between one level and the next
    places: Tensor  # (D,) what a level counts in the code's number

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        axes = [torch.linspace(-1, 1, n).tolist() for n in levels]
        self.register_buffer("grid", torch.tensor(list(itertools.product(*axes))), persistent=False)
        self.register_buffer("steps", torch.tensor([2 / (n - 1) for n in levels]), persistent=False)
        places = [math.prod(levels[d + 1 :]) for d in range(len(levels))]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def place(self, vectors: Tensor) -> Tensor:
        return place(vectors, "cube")

    def table(self) -> CodeTable:
        return CodeTable(self.grid, "cube")

    def forward(self, vectors: Tensor) -> Choice:
        placed = self.place(vectors)
        level = ((placed.detach() + 1) / self.steps).round()
        index = (level.long() * self.places).sum(dim=-1)
        return Choice(index, straight_through(placed, self.grid[index]), placed.new_zeros(()))


def build_quantizer(arch: Coded, config: QuantizerConfig) -> Quantizer:
    """Raises UserError for settings that contradict each other."""
    key = "tokenizer.quantizer"
    if config.kind != "fsq":
        if config.space == "cube" or config.levels:
            raise UserError(f"{key}.kind={config.kind}: space=cube and levels are fsq's; write space=sphere levels=[]")
        if config.kind == "sim" and config.first == "kmeans":
            raise UserError(f"{key}.first=kmeans: the codes of sim are drawn once and fixed; write {key}.first=random")
        return VectorQuantizer(arch.codes, arch.code_dim, config)
    if config.space != "cube":
        raise UserError(f"{key}.space={config.space}: fsq's codes are a grid; write {key}.space=cube")
    if min(config.levels, default=0) < 2 or (math.prod(config.levels), len(config.levels)) != (arch.codes, arch.code_dim):
        raise UserError(
            f"{key}.levels={list(config.levels)}: make {math.prod(config.levels):,} codes of {len(config.levels)} numbers, but "
            f"tokenizer.architecture has codes={arch.codes} code_dim={arch.code_dim}; levels are at least 2"
        )
    return FiniteScalar(config.levels)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over vectors of the squared distance of (..., D); a scalar."""
    return (a - b).square().sum(dim=-1).mean()
