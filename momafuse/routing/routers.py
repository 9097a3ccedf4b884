"""Expert choice within groups.

    z = x W_r                                             logits, fp32 at least
    expert e takes the C rows of its pool with the largest z_e (noisy in training if asked)
    gate_e(x) = sigmoid(z_e)                              (MoMa, arXiv 2407.21770 section 2.2; expert choice, 2202.09368)
    C = floor(rows of the group's modalities in the pool * capacity_factor / E_group)

Selection is by logits, not by gates: sigmoids of large logits tie in fp32. Equal logits go to the lower row. A pool is
`pool` consecutive sequences, so that no result depends on the micro-batch. A group of one expert takes every row of its
modalities, without gate: its capacity is all of them and the choice is trivial.

Shape legend: T rows, D width, E experts, P pools, S rows of a pool, C capacity. State: `weight.GROUP (E_group, D)`.
Does not know what experts compute. Expert choice is not causal: whether a row is taken depends on later rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from momafuse.kernels.capability import triton_serves
from momafuse.kernels.triton.router import MOST_EXPERTS, MOST_ROWS, choose_rows, router_logits
from momafuse.routing.names import SHARED
from momafuse.routing.plan import Group, Plan, make_plan, plan_of_choices, rows_of, served, slot_columns
from momafuse.routing.rows import Rows

CEILING = 1e-9  # 200 * 1.15 is 229.99999999999997


@torch.library.custom_op("momafuse::top_rows", mutates_args=())
def top_rows(scores: Tensor, count: int) -> Tensor:
    """(P, E, S) scores -> (P, E, count) int64: the places of the largest, equal scores in order of place.

    One opaque op, so that recomputing a block under activation checkpointing can reuse its decision.
    """
    if scores.dtype != torch.float32:
        return scores.argsort(dim=-1, descending=True, stable=True)[..., :count].contiguous()
    return _keys(scores).topk(count, dim=-1).indices


def _keys(scores: Tensor) -> Tensor:
    """fp32 (..., S) -> int64 in the same order, equal scores by place: no two are equal, so that the largest few can be picked
    in any manner, in a fraction of the time of a stable sort. NaN is the largest."""
    bits = (scores + 0.0).view(torch.int32).long()  # -0.0 becomes 0.0
    ordered = bits ^ ((bits >> 63) & 0x7FFFFFFF)  # negative floats count backwards
    return (ordered << 32) | torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)


@top_rows.register_fake
def _(scores: Tensor, count: int) -> Tensor:
    return scores.new_empty((*scores.shape[:-1], count), dtype=torch.int64)


def logits(x: Tensor, weight: Tensor) -> Tensor:
    """x (T, D), weight (E, D) -> (T, E) in fp32 at least: experts must not tie because logits were rounded."""
    if triton_serves(x):
        return router_logits(x, weight)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype) @ weight.to(dtype).t()


def chooses_in_one(z: Tensor, rows_of_pool: int) -> bool:
    """Whether one kernel makes the choice: on a GPU, for pools and experts that it has room for."""
    return triton_serves(z) and rows_of_pool <= MOST_ROWS and z.shape[1] <= MOST_EXPERTS


def capacity(group: Group, budget: Sequence[int], pool: int, capacity_factor: float) -> int:
    """C of one expert in a pool of `pool` sequences of `budget[m]` rows each; all rows for a group of one; 0 is legal."""
    rows = pool * sum(budget[m] for m in group.modalities)
    return rows if group.experts == 1 else min(rows, math.floor(rows * capacity_factor / group.experts + CEILING))


class Router(nn.Module):
    """Makes the plan of one layer from its input, where at least one group has several experts."""

    def __init__(self, groups: Sequence[Group], dim: int, pool: int, capacity_factor: float) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.routed = tuple(g for g in groups if g.experts > 1)
        self.pool = pool
        self.capacity_factor = capacity_factor
        self.columns, self.n_slots = slot_columns(groups)
        self.weight = nn.ParameterDict({g.name: nn.Parameter(torch.empty(g.experts, dim)) for g in self.routed})

    def forward(self, x: Tensor, rows: Rows, noise: Tensor | None, auxiliary: Tensor | None = None) -> Plan:
        """x (T, D), noise (T, E) fp32 or None -> the plan.

        With logits `auxiliary` (T, E) of the routed groups an expert takes the rows above 0 that it serves, each by itself
        (auxiliary.py). Else rows whose counts only the device knows come one pool a sequence. Raises ValueError if sequences
        fill no whole pools.
        """
        if auxiliary is not None:
            assert noise is None, "no noise outside of training"
            taken = (auxiliary > 0).t() & served(self.routed, rows)
            z = logits(x, torch.cat([self.weight[g.name] for g in self.routed]))
            return self._chosen(taken, torch.sigmoid(z).t(), rows, x.shape[0] * self.n_slots)
        sequences = rows.modality.shape[0]
        pool = self.pool if rows.budget is not None else 1
        if sequences % pool:
            raise ValueError(f"router.pool={pool}: a batch of {sequences} sequences holds no whole number of pools")
        z = logits(x, torch.cat([self.weight[g.name] for g in self.routed]))
        if noise is not None:
            parts = torch.split(noise, [g.experts for g in self.groups], dim=1)  # a list of columns would be copied there
            z = z + torch.cat([p for p, g in zip(parts, self.groups, strict=True) if g.experts > 1], dim=1).to(z.dtype)
        if rows.budget is not None and chooses_in_one(z, rows.modality.numel() // (sequences // pool)):
            return self._in_one(z, rows, rows.budget)
        z = z.view(sequences // pool, -1, z.shape[1]).transpose(1, 2)
        allowed = served(self.routed, rows).view(z.shape[1], z.shape[0], -1).transpose(0, 1)
        scores = z.detach().masked_fill(~allowed, float("-inf"))
        return self._ragged(z, scores, rows) if rows.budget is None else self._constant(z, scores, rows, rows.budget)

    def _constant(self, z: Tensor, scores: Tensor, rows: Rows, budget: tuple[int, ...]) -> Plan:
        """z and scores (P, E, S) -> a plan of host-known sizes: rows by expert, then pool, then number."""
        counts = {g.name: capacity(g, budget, self.pool, self.capacity_factor) for g in self.routed}
        top = top_rows(scores, max(counts.values()))
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
        return make_plan(torch.cat(parts), shapes, torch.cat(gates), self.columns, self.n_slots, t)

    def _in_one(self, z: Tensor, rows: Rows, budget: tuple[int, ...]) -> Plan:
        """z (T, E) -> the plan of `_constant`, made by one kernel but for groups of one."""
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
        return Plan(taken, offsets, gates, slots, tuple(sizes))

    def _ragged(self, z: Tensor, scores: Tensor, rows: Rows) -> Plan:
        """The same choice where counts of a modality live on the device: C with them, R bounded by the rows."""
        pools, _, s = z.shape
        rank = torch.empty_like(scores, dtype=torch.int64)
        rank.scatter_(2, top_rows(scores, s), torch.arange(s, device=z.device).expand_as(rank))
        present = torch.isfinite(scores).sum(2).double()
        share = torch.cat([present.new_full((g.experts,), self.capacity_factor / g.experts) for g in self.routed])
        count = torch.minimum(present, torch.floor(present * share + CEILING))
        chosen = (rank < count.unsqueeze(2)).transpose(0, 1).reshape(-1, pools * s)
        gate = torch.sigmoid(z).transpose(0, 1).reshape(-1, pools * s)
        overlap = sum(1 for g in self.groups if g.name == SHARED)
        return self._chosen(chosen, gate, rows, math.ceil(pools * s * (max(1.0, self.capacity_factor) + overlap)))

    def _chosen(self, chosen: Tensor, gate: Tensor, rows: Rows, bound: int) -> Plan:
        """chosen and gate (E, T) of the routed groups -> the plan of all groups, of `bound` places."""
        fixed = served(self.groups, rows)
        taken, gates, e, at = [], [], 0, 0
        for g in self.groups:
            one = g.experts == 1
            taken.append(fixed[at : at + 1] if one else chosen[e : e + g.experts])
            gates.append(torch.ones_like(gate[:1]) if one else gate[e : e + g.experts])
            e, at = e + (0 if one else g.experts), at + g.experts
        return plan_of_choices(torch.cat(taken), torch.cat(gates), self.groups, bound)
