"""Expert choice within groups, and the fixed plan of groups of one expert.

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

import torch
from torch import Tensor, nn

from momafuse.routing.plan import Group, Plan, make_plan, slot_columns
from momafuse.routing.rows import Rows


@torch.library.custom_op("momafuse::top_rows", mutates_args=())
def top_rows(scores: Tensor, count: int) -> Tensor:
    """(P, E, S) scores -> (P, E, count) int64: the places of the largest, equal scores in order of place.

    One opaque op, so that recomputing a block under activation checkpointing can reuse its decision.
    """
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count].contiguous()


@top_rows.register_fake
def _(scores: Tensor, count: int) -> Tensor:
    return scores.new_empty((*scores.shape[:-1], count), dtype=torch.int64)


def capacity(group: Group, budget: Sequence[int], pool: int, capacity_factor: float) -> int:
    """C of one expert in a pool of `pool` sequences of `budget[m]` rows each; all rows for a group of one; 0 is legal."""
    rows = pool * sum(budget[m] for m in group.modalities)
    return rows if group.experts == 1 else min(rows, math.floor(rows * capacity_factor / group.experts + 1e-9))  # 200 * 1.15


class Router(nn.Module):
    """Makes the plan of one layer from its input; groups of one expert are part of the same plan."""

    def __init__(self, groups: Sequence[Group], dim: int, n_modalities: int, pool: int, capacity_factor: float) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.pool = pool
        self.capacity_factor = capacity_factor
        self.columns, self.n_slots = slot_columns(groups)
        self.weight = nn.ParameterDict({g.name: nn.Parameter(torch.empty(g.experts, dim)) for g in groups if g.experts > 1})
        serves = [[m in g.modalities for g in groups for _ in range(g.experts) if g.experts > 1] for m in range(n_modalities)]
        self.register_buffer("_serves", torch.tensor(serves), persistent=False)

    def forward(self, x: Tensor, batch: Rows, noise: Tensor | None) -> Plan | None:
        """x (T, D), noise (T, E) fp32 or None -> the plan; None where one expert takes every row as it is.

        Raises ValueError if the sequences of the batch do not fill whole pools.
        """
        if len(self.groups) == 1 and self.groups[0].experts == 1:
            return None
        sequences, length = batch.modality.shape
        if self.weight and sequences % self.pool:
            raise ValueError(f"router.pool={self.pool}: a batch of {sequences} sequences holds no whole number of pools")
        chosen = self._choose(x, batch, noise) if self.weight else {}
        rows, gates, sizes = [], [], []
        for g in self.groups:
            if g.name in chosen:
                group_rows, group_gates = chosen[g.name]
            else:
                group_rows = self._all_rows(g, batch)
                group_gates = torch.ones_like(group_rows, dtype=torch.float32)
            rows.append(group_rows)
            gates.append(group_gates)
            sizes += [group_rows.numel() // g.experts] * g.experts
        weights = torch.cat(gates) if self.weight else None
        return make_plan(torch.cat(rows), sizes, weights, self.columns, self.n_slots, sequences * length)

    def _choose(self, x: Tensor, batch: Rows, noise: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
        """Rows and gates of each group that routes, sorted by expert, then pool, then row."""
        routed = [g for g in self.groups if g.name in self.weight]
        w = torch.cat([self.weight[g.name] for g in routed])
        dtype = torch.promote_types(x.dtype, torch.float32)
        z = x.to(dtype) @ w.to(dtype).t()
        if noise is not None:
            z = z + noise[:, [i for i, g in self._experts() if g.name in self.weight]].to(dtype)
        allowed = self.get_buffer("_serves")[batch.modality.flatten().long()]
        pools = batch.modality.shape[0] // self.pool
        z = z.view(pools, -1, w.shape[0]).transpose(1, 2)
        scores = z.detach().masked_fill(~allowed.view(pools, -1, w.shape[0]).transpose(1, 2), float("-inf"))
        counts = [capacity(g, batch.budget, self.pool, self.capacity_factor) for g in routed]
        top = top_rows(scores, max(counts))
        first_rows = torch.arange(pools, device=x.device).view(-1, 1, 1) * z.shape[2]
        result, e = {}, 0
        for g, count in zip(routed, counts, strict=True):
            taken = top[:, e : e + g.experts, :count].sort(dim=-1).values  # rows in order: kinder to memory
            gate = torch.sigmoid(z[:, e : e + g.experts].gather(2, taken))
            rows = taken + first_rows
            result[g.name] = (rows.transpose(0, 1).reshape(-1), gate.transpose(0, 1).reshape(-1))
            e += g.experts
        return result

    def _experts(self) -> list[tuple[int, Group]]:
        return list(enumerate(g for g in self.groups for _ in range(g.experts)))

    @staticmethod
    def _all_rows(group: Group, batch: Rows) -> Tensor:
        sequences = batch.modality.shape[0]
        starts = [sequences * sum(batch.budget[:m]) for m in range(len(batch.budget) + 1)]
        return torch.cat([batch.order[starts[m] : starts[m + 1]] for m in group.modalities])
