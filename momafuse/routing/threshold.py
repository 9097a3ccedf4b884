"""Expert threshold: an expert takes the rows whose logit is above what has, of late, been its cut under expert choice.

    expert e takes the rows with z_e > tau_e (noisy in training if asked);   gate_e(x) = sigmoid(z_e)
    cut_e = halfway between the C-th and the next largest z_e of a pool: the (1 - capacity_factor / E_group) quantile;
            half above the largest where C is 0, half below the least where it is all rows
    tau_e <- decay * tau_e + (1 - decay) * mean of cut_e over the pools of all ranks and micro-batches       after each step
                                                                                          (expert threshold routing, 2603.11535)

So a row's experts hang on itself alone, in training as at inference, and the load is balanced on average without a loss. In
step 1 there are no cuts yet and no expert takes a row; they are those of step 1 afterwards. In training at most `BOUND` times
capacity_factor places a row are computed; what is beyond is dropped, last experts first, and counted (`router/dropped`): on
such a step, as there are in the first ones, a row can push out places of earlier ones. Evaluations have no bound.

Shape legend and parameters: routers.py. State: `state.GROUP (E_group,)`, tau.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from momafuse.routing.config import RouterConfig
from momafuse.routing.plan import Group, Plan, Scores, served
from momafuse.routing.routers import Router, State, above, top_rows
from momafuse.routing.rows import Rows

BOUND = 2.0


class Threshold(Router):
    def __init__(self, groups: Sequence[Group], dim: int, config: RouterConfig) -> None:
        super().__init__(groups, dim, config)
        self.state: State = State(self.routed, math.inf)

    @property
    def measures(self) -> int:
        return 2 * self.n_routed

    def plan(self, x: Tensor, rows: Rows, noise: Tensor | None) -> Plan:
        plain = self.logits(x)
        z = self.noisy(plain, noise)
        taken, t = self.choose(z, rows), z.shape[0]
        bound = min(t * self.n_slots, math.ceil(t * (BOUND * max(1.0, self.capacity_factor) + self.shared)))
        return self.chosen(taken, torch.sigmoid(z), rows, bound, Scores(plain, taken, None, self._cuts(z, rows)))

    def choose(self, z: Tensor, rows: Rows) -> Tensor:
        taken: Tensor = above(z.detach(), self.state().to(z.dtype)) & served(self.routed, rows).t()
        return taken

    @torch.no_grad()
    def _cuts(self, z: Tensor, rows: Rows) -> Tensor:
        """(2 N,) float64: for each expert the sum of its cuts over pools, and how many pools held rows for it."""
        _, ranked = self.by_pool(z, rows)
        ordered = ranked.gather(2, top_rows(ranked, ranked.shape[2])).double()
        present = torch.isfinite(ordered)
        count = self.counted(present.sum(2), self.capacity_factor).long().unsqueeze(2)  # (P, N, 1)
        last = ordered.gather(2, (present.sum(2, keepdim=True) - 1).clamp(min=0))  # the lowest of the pool
        inside = torch.where(count > 0, ordered.gather(2, (count - 1).clamp(min=0)), ordered[:, :, :1] + 1)
        beyond = ordered.gather(2, count.clamp(max=ordered.shape[2] - 1))
        beyond = torch.where(count < present.sum(2, keepdim=True), beyond, last - 1)
        some = present.any(2)
        cut = torch.where(some, (inside + beyond)[:, :, 0] / 2, 0.0)
        return torch.cat([cut.sum(0), some.sum(0).double()])

    @torch.no_grad()
    def update(self, measured: Tensor) -> None:
        total, pools = measured.chunk(2)
        old, new = self.state().double(), total / pools.clamp(min=1)
        moved = torch.where(torch.isinf(old), new, torch.lerp(new, old, self.config.decay))
        self.state.write(torch.where(pools > 0, moved, old).float())
