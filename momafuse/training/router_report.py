"""What the routers of a run did with its held-out rows: counted while they are evaluated, then told as a report and a summary.

`report.json` holds it as `router`, an entry for each layer and routed group (routing/report.py says what is what; experts in
order of number, shares rounded to four digits):

    layer, group, experts, modalities
    load {MODALITY: rows of each expert}     chosen {MODALITY: shares of rows with 0, 1, 2 or more experts}
    success, dropped, entropy {MODALITY: share of rows, share of choices, nats; no entropy where nothing is scored}
    unused, similarity                       share of the group's places; a cosine
    explained, divergence, nmi               of the layer, all its experts together; the last two with two modalities or more

and an evaluation's row of metrics.jsonl means over layers, as `eval/router/NAME`. The routing is the evaluation's own: what a
capacity would drop in training is dropped only under training routing, and `train` rows count it (router/none_MODALITY).
Gradient norms of routers are those of the step (train/router_grad_norm). Draws nothing (routing_shown.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from momafuse.data.batch import Batch
from momafuse.generation.experts import Taken, taken
from momafuse.models.block import Block, Decision
from momafuse.routing.kinds import KINDS, TOKEN_CHOICE
from momafuse.routing.report import (
    RouterSums,
    StateSums,
    apart,
    count_routers,
    counting,
    explained,
    modality_of,
    similarity,
    summed,
    unused_capacity,
)
from momafuse.training.setup import Setup

SHOWN_ROWS = 32_768  # of this process, whose experts are kept one by one for pictures
DIGITS = 4


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

    def summary(self) -> dict[str, float]:
        """`eval/router/NAME`: means over layers and groups; `max_load` is the largest of all over its even one."""
        found: dict[str, list[float]] = {}
        for e in self.entries:
            for name in ("unused", "similarity", "explained", "divergence", "nmi"):
                if name in e:
                    found.setdefault(name, []).append(e[name])
            for name in ("success", "entropy"):
                for modality, value in e.get(name, {}).items():
                    found.setdefault(f"{name}_{modality}", []).append(value)
        means = {f"eval/router/{name}": sum(values) / len(values) for name, values in found.items()}
        loads = [over_even(e) for e in self.entries]
        return means | {"eval/router/max_load": max(max(load) for load in loads)}


def over_even(entry: dict[str, Any]) -> list[float]:
    """The load of each expert of an entry over the even one; 1 where nothing was routed."""
    load = [sum(of_expert) for of_expert in zip(*entry["load"].values(), strict=True)]
    return [n * len(load) / sum(load) if sum(load) else 1.0 for n in load]


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
        return RouterFound(self._entries(sums, explained(states), alike.tolist()), self._seen() if self._kept else None)

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

    def _entries(self, sums: RouterSums, shares: Sequence[float], alike: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
        groups, router = self.model.groups, self.model.router
        per_row = KINDS[router.kind].per_row(router)
        if router.kind == TOKEN_CHOICE and not router.dropless:
            per_row *= router.capacity_factor
        entries, scored = [], KINDS[router.kind].scores
        for at, layer in enumerate(self.layers):
            load = sums.load[at]
            between = apart(load[counting(groups)])
            of_layer = {"explained": _round(shares[layer])}
            if between is not None:
                of_layer |= {"divergence": _round(between[0]), "nmi": _round(between[1])}
            first, nth = 0, 0
            for g in groups:
                if g.experts > 1:
                    entry = self._entry(layer, nth, load[first : first + g.experts], sums, at, scored)
                    rows = float(sums.times[at, nth].sum())
                    unused = unused_capacity(load[first : first + g.experts].sum(1), rows, per_row)
                    entries.append(entry | {"unused": _round(unused), "similarity": _round(alike[at][nth])} | of_layer)
                    nth += 1
                first += g.experts
        return entries

    def _entry(self, layer: int, nth: int, load: Tensor, sums: RouterSums, at: int, scored: bool) -> dict[str, Any]:
        """What differs between modalities, load (E, M) of the group."""
        g = [g for g in self.model.groups if g.experts > 1][nth]
        entry: dict[str, Any] = {"layer": layer, "group": g.name, "experts": g.experts}
        names = {m: self.model.modality_names[m] for m in g.modalities}
        entry["modalities"] = list(names.values())
        for key in ("load", "chosen", "success", "dropped", *(["entropy"] if scored else [])):
            entry[key] = {}
        for m, name in names.items():
            times = sums.times[at, nth, m]
            if rows := float(times.sum()):
                entry["load"][name] = [int(n) for n in load[:, m].tolist()]
                entry["chosen"][name] = [_round(n / rows) for n in times.tolist()]
                entry["success"][name] = _round(1 - float(times[0]) / rows)
                lost = float(sums.dropped[at, nth, m])
                entry["dropped"][name] = _round(lost / max(1.0, lost + float(load[:, m].sum())))
                if scored:
                    entry["entropy"][name] = _round(float(sums.entropy[at, nth, m]) / rows)
        return entry

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


def _round(x: float) -> float:
    return round(x, DIGITS) + 0.0  # no -0.0


def written(report: Mapping[str, Any]) -> str:
    """report.json: what it holds of routers stands an entry a line."""
    plain = json.dumps({key: value for key, value in report.items() if key != "router"}, indent=1)
    if "router" not in report:
        return plain + "\n"
    entries = ",\n  ".join(json.dumps(entry) for entry in report["router"])
    return plain.removesuffix("\n}") + f',\n "router": [\n  {entries}\n ]\n}}\n'
