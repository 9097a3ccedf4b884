"""What all routers share: logits, the opaque choice of the largest, capacities, and the class that kinds of routers extend.

    z = x W_r        logits, fp32 at least

A router is made for one layer whose groups have several experts; a group of one expert takes every row of its modalities,
without gate. In training it plans for all rows of a batch (`forward`), at inference each row by itself (`choose`): where a kind
cannot (expert choice), auxiliary routers choose for it (auxiliary.py) and it weighs. Which kinds there are: kinds.py.

State that is no parameter (`State`) is read in the forward of step t as it was after step t - 1, and written by the loop alone,
after the update, from `Scores.measured` summed over ranks and micro-batches.

Shape legend: T rows, D width, E experts of all groups, N experts of the routed groups, P pools, S rows of a pool, C capacity.
Parameters: `weight.GROUP (E_group, D)`. Does not know what experts compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from momafuse.kernels.capability import triton_serves
from momafuse.kernels.triton.router import router_logits
from momafuse.routing.config import RouterConfig
from momafuse.routing.names import SHARED
from momafuse.routing.plan import Group, Plan, Scores, of_routed, plan_of_choices, served, slot_columns
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


@torch.library.custom_op("momafuse::above", mutates_args=())
def above(scores: Tensor, level: Tensor) -> Tensor:
    """scores (..., n) > level (n,) -> bool. One opaque op for the same reason."""
    return scores > level


@above.register_fake
def _(scores: Tensor, level: Tensor) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)


def logits(x: Tensor, weight: Tensor) -> Tensor:
    """x (T, D), weight (E, D) -> (T, E) in fp32 at least: experts must not tie because logits were rounded."""
    if triton_serves(x):
        return router_logits(x, weight)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype) @ weight.to(dtype).t()


def capacity(group: Group, budget: Sequence[int], pool: int, capacity_factor: float) -> int:
    """C of one expert in a pool of `pool` sequences of `budget[m]` rows each; all rows for a group of one; 0 is legal."""
    rows = pool * sum(budget[m] for m in group.modalities)
    return rows if group.experts == 1 else min(rows, math.floor(rows * capacity_factor / group.experts + CEILING))


class State(nn.Module):
    """A number for every expert of the routed groups that is no parameter: buffers `GROUP (E_group,)`, saved with the model."""

    def __init__(self, groups: Sequence[Group], first: float) -> None:
        super().__init__()
        self.first = first
        for g in groups:
            self.register_buffer(g.name, torch.full((g.experts,), first))

    def forward(self) -> Tensor:
        """(N,) fp32"""
        return torch.cat(list(self.buffers()))

    @torch.no_grad()
    def write(self, values: Tensor) -> None:
        """values (N,)"""
        buffers = list(self.buffers())
        for buffer, part in zip(buffers, torch.split(values, [b.numel() for b in buffers]), strict=True):
            buffer.copy_(part)

    def reset(self) -> None:
        for buffer in self.buffers():
            buffer.fill_(self.first)


class Router(nn.Module):
    """Makes the plan of one layer from its input, where at least one group has several experts."""

    def __init__(self, groups: Sequence[Group], dim: int, config: RouterConfig) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.routed = tuple(g for g in groups if g.experts > 1)
        self.n_routed = sum(g.experts for g in self.routed)
        self.config = config
        self.pool = config.pool
        self.capacity_factor = config.capacity_factor  # the loop lets it fall after upcycling
        self.columns, self.n_slots = slot_columns(groups)
        self.weight = nn.ParameterDict({g.name: nn.Parameter(torch.empty(g.experts, dim)) for g in self.routed})
        self.state: State | None = None

    @property
    def shared(self) -> int:
        """Experts that every row goes through beside those of its own group."""
        return sum(g.name == SHARED for g in self.groups)

    @property
    def most(self) -> int:
        """Experts that one row can go to."""
        return self.n_slots

    @property
    def measures(self) -> int:
        """How many numbers `Scores.measured` has: one for each of the state's, unless a kind says otherwise."""
        return 0 if self.state is None else self.n_routed

    def forward(
        self,
        x: Tensor,
        rows: Rows,
        noise: Tensor | None,
        *,
        ahead: bool = True,
        taken: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> Plan:
        """x (T, D), noise (T, E) fp32 or None -> the plan.

        `ahead`: as in training, where the choice may hang on other rows; else each row's is its own, and nothing is dropped.
        With `taken` (T, N) bool the choice is made already, and this router only weighs; `chosen` (T, N) is what it was before
        any row was dropped, where that is more: a row's gates are shares of all that it chose. Raises ValueError if sequences
        fill no whole pools and the kind has pools.
        """
        if taken is None and ahead:
            return self.plan(x, rows, noise)
        assert noise is None or taken is not None, "no noise outside of training"
        z = self.logits(x)
        taken = self.choose(z, rows) if taken is None else taken
        gates = self.weigh(self.noisy(z, noise), taken if chosen is None else chosen, rows)
        return self.chosen(taken, gates, rows, x.shape[0] * self.most, Scores(z, chosen))

    def plan(self, x: Tensor, rows: Rows, noise: Tensor | None) -> Plan:
        """The plan of training."""
        raise NotImplementedError

    def choose(self, z: Tensor, rows: Rows) -> Tensor:
        """Logits (T, N) -> (T, N) bool: the experts of each row, by what the row itself holds."""
        raise NotImplementedError

    def weigh(self, z: Tensor, taken: Tensor, rows: Rows) -> Tensor:
        """Logits (T, N), taken (T, N) bool -> the gates (T, N) of a row's experts, where it is taken."""
        return torch.sigmoid(z)

    def noisy(self, z: Tensor, noise: Tensor | None) -> Tensor:
        """z (T, N), noise (T, E) or None -> the logits that choose and weigh."""
        return self.with_noise(z, noise)

    def update(self, measured: Tensor) -> None:
        """Write the state of the next step from `Scores.measured` of all of a step's rows, where the kind has state."""

    # -- parts of kinds

    def logits(self, x: Tensor) -> Tensor:
        """x (T, D) -> (T, N)"""
        return logits(x, torch.cat([self.weight[g.name] for g in self.routed]))

    def with_noise(self, z: Tensor, noise: Tensor | None) -> Tensor:
        """z (T, N), noise (T, E) or None -> z with the noise of the routed groups' experts."""
        return z if noise is None else z + of_routed(noise, self.groups).to(z.dtype)

    def pools(self, rows: Rows) -> int:
        """How many pools the rows fill. Rows whose counts only the device knows come one pool a sequence."""
        sequences = rows.modality.shape[0]
        pool = self.pool if rows.budget is not None else 1
        if sequences % pool:
            raise ValueError(f"router.pool={self.pool}: a batch of {sequences} sequences holds no whole number of pools")
        return sequences // pool

    def by_pool(self, z: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """z (T, N) -> z as (P, N, S), and detached scores with -inf for rows that an expert does not serve."""
        z = z.view(self.pools(rows), -1, z.shape[1]).transpose(1, 2)
        allowed = served(self.routed, rows).view(z.shape[1], z.shape[0], -1).transpose(0, 1)
        return z, z.detach().masked_fill(~allowed, float("-inf"))

    def counted(self, present: Tensor, per_row: float) -> Tensor:
        """Rows (P, N) that each expert serves in a pool, each of `per_row` places -> C (P, N) as the device counts it, in
        float64."""
        present = present.double()
        share = torch.cat([present.new_full((g.experts,), per_row / g.experts) for g in self.routed])
        return torch.minimum(present, torch.floor(present * share + CEILING))

    def chosen(self, chosen: Tensor, gate: Tensor, rows: Rows, bound: int, scores: Scores | None = None) -> Plan:
        """chosen and gate (T, N) of the routed groups -> the plan of all groups, of `bound` places."""
        fixed, chosen, gate = served(self.groups, rows), chosen.t(), gate.t()
        taken, gates, e, at = [], [], 0, 0
        for g in self.groups:
            one = g.experts == 1
            taken.append(fixed[at : at + 1] if one else chosen[e : e + g.experts])
            gates.append(torch.ones_like(gate[:1]) if one else gate[e : e + g.experts])
            e, at = e + (0 if one else g.experts), at + g.experts
        return plan_of_choices(torch.cat(taken), torch.cat(gates), self.groups, bound, scores)
