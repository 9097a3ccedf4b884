"""Expert choice within groups.

    expert e takes the C rows of its pool with the largest z_e (noisy in training if asked)
    gate_e(x) = sigmoid(z_e)                              (MoMa, arXiv 2407.21770 section 2.2; expert choice, 2202.09368)
    C = floor(rows of the group's modalities in the pool * capacity_factor / E_group)

Selection is by logits, not by gates: sigmoids of large logits tie in fp32. Equal logits go to the lower row. A pool is
`pool` consecutive sequences, so that no result depends on the micro-batch. A group of one expert takes every row of its
modalities, without gate: its capacity is all of them and the choice is trivial.

Shape legend and parameters: routers.py. Not causal: whether a row is taken depends on later rows.
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor

from momafuse.kernels.capability import triton_serves
from momafuse.kernels.triton.router import MOST_EXPERTS, MOST_ROWS, choose_rows
from momafuse.routing.plan import Plan, Scores, make_plan, rows_of
from momafuse.routing.routers import Router, capacity, top_rows
from momafuse.routing.rows import Rows


def chooses_in_one(z: Tensor, rows_of_pool: int) -> bool:
    """Whether one kernel makes the choice: on a GPU, for pools and experts that it has room for."""
    return triton_serves(z) and rows_of_pool <= MOST_ROWS and z.shape[1] <= MOST_EXPERTS


class ExpertChoice(Router):
    def plan(self, x: Tensor, rows: Rows, noise: Tensor | None) -> Plan:
        pools, plain = self.pools(rows), self.logits(x)
        scores, z = Scores(plain), self.noisy(plain, noise)
        if rows.budget is not None and chooses_in_one(z, rows.modality.numel() // pools):
            return self._in_one(z, rows, rows.budget, scores)
        z, ranked = self.by_pool(z, rows)
        if rows.budget is None:
            return self._ragged(z, ranked, rows, scores)
        return self._constant(z, ranked, rows, rows.budget, scores)

    def _constant(self, z: Tensor, ranked: Tensor, rows: Rows, budget: tuple[int, ...], scores: Scores) -> Plan:
        """z and ranked (P, N, S) -> a plan of host-known sizes: rows by expert, then pool, then number."""
        counts = {g.name: capacity(g, budget, self.pool, self.capacity_factor) for g in self.routed}
        top = top_rows(ranked, max(counts.values()))
        first_rows = torch.arange(z.shape[0], device=z.device).view(-1, 1, 1) * z.shape[2]
        parts, gates, shapes, e = [], [], [], 0
        for g in self.groups:
            if g.name in counts:
                taken = top[:, e : e + g.experts, : counts[g.name]].sort(dim=-1).values  # in order: kinder to memory
                gate = torch.sigmoid(z[:, e : e + g.experts].gather(2, taken))
                parts.append((taken + first_rows).transpose(0, 1).reshape(-1))
                gates.append(gate.transpose(0, 1).reshape(-1))
                e += g.experts
            else:
                parts.append(rows_of(g, rows))
                gates.append(z.new_ones(parts[-1].shape))
            shapes.append((g.experts, parts[-1].numel() // g.experts))
        t = rows.modality.numel()
        return make_plan(torch.cat(parts), shapes, torch.cat(gates), self.columns, self.n_slots, t, scores)

    def _in_one(self, z: Tensor, rows: Rows, budget: tuple[int, ...], scores: Scores) -> Plan:
        """z (T, N) -> the plan of `_constant`, made by one kernel but for groups of one."""
        counts = {g.name: capacity(g, budget, self.pool, self.capacity_factor) for g in self.groups}
        pools = rows.modality.shape[0] // self.pool
        sizes = [pools * counts[g.name] for g in self.groups for _ in range(g.experts)]
        starts = list(accumulate(sizes, initial=0))
        first = list(accumulate((g.experts for g in self.groups), initial=0))
        chosen = [(i, g, e) for i, g in enumerate(self.groups) if g.experts > 1 for e in range(g.experts)]
        taken, gates, slots, offsets = choose_rows(
            z,
            rows.modality.flatten(),
            pools,
            [counts[g.name] for _, g, _ in chosen],
            [sum(1 << m for m in g.modalities) for _, g, _ in chosen],
            [starts[first[i] + e] for i, _, e in chosen],
            [self.columns[i] + e for i, _, e in chosen],
            starts,
            self.n_slots,
        )
        for i, g in enumerate(self.groups):
            if g.experts == 1:
                low, high = starts[first[i]], starts[first[i] + 1]
                mine = rows_of(g, rows)
                taken = taken.slice_scatter(mine, 0, low, high)
                gates = gates.slice_scatter(torch.ones_like(gates[low:high]), 0, low, high)
                places = torch.arange(low, high, device=z.device)
                slots = slots.flatten().scatter(0, mine * self.n_slots + self.columns[i], places).view_as(slots)
        return Plan(taken, offsets, gates, slots, tuple(sizes), scores)

    def _ragged(self, z: Tensor, ranked: Tensor, rows: Rows, scores: Scores) -> Plan:
        """The same choice where counts of a modality live on the device: C with them, R bounded by the rows."""
        pools, n, s = z.shape
        rank = torch.empty_like(ranked, dtype=torch.int64)
        rank.scatter_(2, top_rows(ranked, s), torch.arange(s, device=z.device).expand_as(rank))
        count = self.counted(torch.isfinite(ranked).sum(2), self.capacity_factor)
        chosen = (rank < count.unsqueeze(2)).transpose(1, 2).reshape(-1, n)
        gate = torch.sigmoid(z).transpose(1, 2).reshape(-1, n)
        bound = math.ceil(pools * s * (max(1.0, self.capacity_factor) + self.shared))
        return self.chosen(chosen, gate, rows, bound, scores)
