"""The quantizer's side of a stage: what its codes learn from the choices of a step, of all ranks, outside of the gradient."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from momafuse.vq.codebooks import Uses
from momafuse.vq.codes import CodeTable
from momafuse.vq.order import generator_of
from momafuse.vq.quantizer import Quantizer
from momafuse.world import World


class Codes:
    def __init__(self, quantizer: Quantizer, seed: int, world: World) -> None:
        self.quantizer, self._seed, self._world = quantizer, seed, world
        self._noted: list[tuple[Tensor, Tensor]] = []

    def begin(self, choices: int, vectors: Tensor) -> None:
        """`choices` of a step; `vectors` (T, D) of the encoder. The main process's codes become those of all."""
        count = len(self.quantizer.table().values)
        self.quantizer.begin(choices / count, vectors, generator_of(self._seed, 0, "codes"))
        if self._world.mesh is not None:
            for tensor in (*self.quantizer.buffers(), *self.quantizer.parameters()):
                dist.broadcast(tensor.detach(), src=0)

    def note(self, vectors: Tensor, codes: Tensor) -> None:
        """Of a micro-batch: vectors (N, L, D) chose codes (N, L)."""
        self._noted.append((vectors, codes))

    def forget(self) -> None:
        self._noted = []

    @torch.no_grad()
    def update(self, step: int, *, restart: bool) -> dict[str, float]:
        """Every rank must call it. -> codes that were restarted"""
        if not self._noted:
            return {}
        vectors, codes = (torch.cat(parts) for parts in zip(*self._noted, strict=True))
        self.forget()
        mine = self.quantizer.uses(vectors, codes)
        if mine is None:
            return {}
        self.quantizer.update(Uses(*(self._world.sum(x) for x in mine)))
        return self._restart(vectors.flatten(0, 1), step) if restart else {}

    def _restart(self, vectors: Tensor, step: int) -> dict[str, float]:
        """Dead codes onto vectors of the step, drawn from those of all ranks; each is put in by the rank that has it."""
        everywhere = len(vectors) * self._world.size
        dead = self.quantizer.doomed(everywhere)
        drawn = torch.randperm(everywhere, generator=generator_of(self._seed, step, "restart"))[: len(dead)]
        places = drawn.to(vectors.device) - self._world.rank * len(vectors)
        chosen = vectors.new_zeros(len(dead), vectors.shape[1])
        here = (places >= 0) & (places < len(vectors))
        chosen[here] = vectors[places[here]]
        if len(dead):
            self.quantizer.restart(dead, self._world.sum(chosen))
        return {"codes/restarted": float(len(dead))}

    def table(self) -> CodeTable:
        return self.quantizer.table()
