"""Beside an evaluation: counts what routers do with held-out rows, and keeps some of these for pictures.

Sums of all ranks become a report by router_report.py; what is kept becomes pictures by routing_shown.py. Changes nothing of
what is evaluated, and waits for the device when that is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from momafuse.data.batch import Batch
from momafuse.generation.experts import Taken, taken
from momafuse.models.block import Block, Decision
from momafuse.routing.kinds import KINDS
from momafuse.routing.report import RouterSums, StateSums, count_routers, explained, modality_of, similarity, summed
from momafuse.training.router_report import entries
from momafuse.training.setup import Setup

SHOWN_ROWS = 32_768  # of this process, whose experts are kept one by one for pictures


@dataclass(frozen=True)
class Seen:
    """Held-out rows of the main process and what every routed layer did with them. n rows of whole sequences of S."""

    length: int  # S
    tokens: Tensor  # (n,) int64
    modality: Tensor  # (n,) uint8
    document: Tensor  # (n,) int32, within its sequence
    layers: dict[int, Taken]  # by number of the layer


@dataclass(frozen=True)
class RouterFound:
    entries: list[dict[str, Any]]  # of report.json
    seen: Seen | None  # None on other ranks than the main one


class RouterWatch:
    """Beside an evaluation of a model that has routed groups, on every rank."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.model = setup, setup.model
        routers = self.model.routers()
        self.layers = [i for i, router in enumerate(routers) if router is not None]
        m, blocks = len(self.model.modality_names), len(routers)
        zeros = torch.zeros(blocks, m, self.model.config.dim, dtype=torch.float64, device=setup.world.device)
        self.states = StateSums(zeros[0, :, 0].clone(), zeros, zeros[:, 0, 0].clone())
        self.sums: RouterSums | None = None
        self._kept: list[tuple[Batch, list[Decision]]] = []
        self._one_hot = zeros[0]

    def begin(self, batch: Batch, counted: bool) -> None:
        """Before the forward of a batch; `counted`: it is not one that another rank has, too."""
        self._one_hot = modality_of(batch, len(self.model.modality_names)) * counted
        self.states.rows.add_(self._one_hot.sum(0))

    def observe(self, layer: int, x: Tensor) -> None:
        """Add up the output (B, S, D) of a layer: products in fp32, sums in fp64."""
        rows, mine = x.detach().flatten(0, 1).float(), self._one_hot.float()
        self.states.total[layer] += (mine.t() @ rows).double()
        self.states.squares[layer] += ((rows * rows).sum(1) * mine.sum(1)).sum().double()

    def add(self, batch: Batch, decisions: Sequence[Decision], counted: bool) -> None:
        """What the same forward's routers decided. No device waits."""
        mine = [decisions[i] for i in self.layers]
        plans = [(d.experts, d.kept or batch) for d in mine if d.experts is not None]
        if len(plans) < len(mine):  # depth routers kept no row
            return
        kind = KINDS[self.model.router.kind]
        new = count_routers(plans, self.model.groups, len(self.model.modality_names), scored=kind.scores)
        new = RouterSums(*[part * counted for part in new.parts()])
        self.sums = new if self.sums is None else self.sums + new
        seen = sum(b.tokens.numel() for b, _ in self._kept)
        if self.setup.world.main and counted and seen < SHOWN_ROWS:
            self._kept.append((batch, [_bare(d) for d in mine]))

    def found(self) -> RouterFound | None:
        """Of all ranks, which must all call it; None where no row was routed."""
        if self.sums is None:
            return None
        alike = self._similarities()
        parts = summed([*self.sums.parts(), *self.states.parts()], self.setup.world.sum)
        on_host = [part.cpu() for part in parts]
        sums, states = RouterSums(*on_host[:4]), StateSums(*on_host[4:])
        return RouterFound(
            entries(self.model, self.layers, sums, explained(states), alike.tolist()), self._seen() if self._kept else None
        )

    @torch.no_grad()
    def _similarities(self) -> Tensor:
        """(L, G); sharded weights are gathered a stack at a time."""
        found = []
        for i in self.layers:
            block = self.model.blocks[i]
            assert isinstance(block, Block)
            for g in self.model.groups:
                if g.experts > 1:
                    stacks = block.experts.groups[g.name].parameters()
                    found.append(similarity([p.full_tensor() if isinstance(p, DTensor) else p for p in stacks]))
        return torch.stack(found).view(len(self.layers), -1)

    def _seen(self) -> Seen:
        layers = {}
        for at, i in enumerate(self.layers):
            parts = [taken(decisions[at], self.model.groups, batch.modality) for batch, decisions in self._kept]
            layers[i] = joined(parts)
        batches = [batch for batch, _ in self._kept]
        tokens, modality, document = (
            torch.cat([x.flatten() for x in several]).cpu()
            for several in ([b.tokens for b in batches], [b.modality for b in batches], [b.document for b in batches])
        )
        return Seen(batches[0].tokens.shape[1], tokens, modality, document, layers)


def joined(parts: Sequence[Taken]) -> Taken:
    """The rows of several batches, one after the other."""
    return replace(
        parts[0],
        expert=np.concatenate([p.expert for p in parts]),
        gate=np.concatenate([p.gate for p in parts]),
        count=np.concatenate([p.count for p in parts]),
    )


def _bare(d: Decision) -> Decision:
    """Without logits, which take room."""
    assert d.experts is not None
    return Decision(replace(d.experts, scores=None), d.kept)
