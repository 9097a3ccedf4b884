"""Routers that learn nothing: what a row's expert is follows from its token or its place. Every gate is 1.

    hash       the expert of an id is drawn once for all, by a hash of (id, group)           (hash layers, 2106.04426)
    uniform    experts in turn, by the place in the sequence: an even load, to measure what choosing costs

Both are causal. Shape legend: T rows, N experts of the routed groups. No parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from momafuse.routing.config import RouterConfig
from momafuse.routing.noise import mixed
from momafuse.routing.plan import Group, Plan, served
from momafuse.routing.routers import Router
from momafuse.routing.rows import Rows


class Assigned(Router):
    def __init__(self, groups: Sequence[Group], dim: int, config: RouterConfig) -> None:
        super().__init__(groups, dim, config)
        self.weight = nn.ParameterDict()

    @property
    def most(self) -> int:
        return 1 + self.shared

    def logits(self, x: Tensor) -> Tensor:
        """(T, N) zeros: there are none."""
        return x.new_zeros(x.shape[0], self.n_routed, dtype=torch.promote_types(x.dtype, torch.float32))

    def plan(self, x: Tensor, rows: Rows, noise: Tensor | None) -> Plan:
        z = self.logits(x)
        return self.chosen(self.choose(z, rows), self.weigh(z, z > 0, rows), rows, x.shape[0] * self.most)

    def weigh(self, z: Tensor, taken: Tensor, rows: Rows) -> Tensor:
        return torch.ones_like(z)

    def choose(self, z: Tensor, rows: Rows) -> Tensor:
        parts = [self.number(g, rows).flatten()[:, None] == torch.arange(g.experts, device=z.device) for g in self.routed]
        return torch.cat(parts, dim=1) & served(self.routed, rows).t()

    def number(self, group: Group, rows: Rows) -> Tensor:
        """(B, S) int64: each row's expert within the group."""
        raise NotImplementedError


class Hash(Assigned):
    def number(self, group: Group, rows: Rows) -> Tensor:
        return mixed(rows.tokens.long() + (len(group.name) << 32)) % group.experts


class Uniform(Assigned):
    def number(self, group: Group, rows: Rows) -> Tensor:
        return rows.position.long() % group.experts
