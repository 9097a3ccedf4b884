"""Token choice: each row takes the k experts of its group with the largest scores.

    s = softmax(z) within the group, or sigmoid(z);   the row's experts: the k largest of z + noise, or of s + b with a bias b
    gate_e = s_e, divided by the sum over the row's experts if `normalise`
    b_e <- b_e + bias_rate * sign(mean load - load_e)        after each step, from the rows of all ranks and micro-batches
    (Switch, 2101.03961; GShard, 2006.16668; noise of standard deviation 1 / E and priority: V-MoE, 2106.05974;
    loss-free balance: 2408.15664, with score=sigmoid as in DeepSeek-V3)

Equal scores go to the lower expert. `dropless` (the default) computes every choice: causal. Else an expert takes at most
C = floor(rows of the group in the pool * k * capacity_factor / E_group) rows of a pool: first choices before second ones, and
within them rows as they stand, or, with `priority`, those whose best score is largest. What is dropped then hangs on other
rows, later ones too. At inference nothing is dropped.

Shape legend and parameters: routers.py. State with a bias: `state.GROUP (E_group,)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from momafuse.routing.config import RouterConfig
from momafuse.routing.names import SHARED
from momafuse.routing.plan import Group, Plan, Scores, plan_of_assignment, served
from momafuse.routing.routers import Router, State, top_rows
from momafuse.routing.rows import Rows


class TokenChoice(Router):
    def __init__(self, groups: Sequence[Group], dim: int, config: RouterConfig) -> None:
        super().__init__(groups, dim, config)
        self.k = config.top_k
        self.state = State(self.routed, 0.0) if config.bias_rate else None

    @property
    def most(self) -> int:
        return self.k + self.shared

    def plan(self, x: Tensor, rows: Rows, noise: Tensor | None) -> Plan:
        z, mine = self.logits(x), served(self.routed, rows).t()
        noisy = self.noisy(z, noise)
        score = self._score(noisy, mine)
        top = self._top(noisy, score, mine)  # (T, k)
        chosen, kept = self._as_mask(top, mine), mine.any(1, keepdim=True).expand_as(top)
        gates = self._shares(score, chosen).gather(1, top)
        if not self.config.dropless:
            kept = kept & self._within_capacity(top, score.amax(1), mine, rows)
        measured = chosen.sum(0, dtype=torch.float64) if self.state is not None else None
        cut = None if noise is None else noisy.gather(1, top).amin(1)
        scores = Scores(z, chosen, cut, measured)
        return self._planned(top, gates, kept, rows, scores)

    def choose(self, z: Tensor, rows: Rows) -> Tensor:
        mine = served(self.routed, rows).t()
        return self._as_mask(self._top(z, self._score(z, mine), mine), mine)

    def weigh(self, z: Tensor, taken: Tensor, rows: Rows) -> Tensor:
        return self._shares(self._score(z, served(self.routed, rows).t()), taken)

    def noisy(self, z: Tensor, noise: Tensor | None) -> Tensor:
        return self.with_noise(z, self._normal(noise))

    @torch.no_grad()
    def update(self, measured: Tensor) -> None:
        if self.state is None:
            return
        parts = torch.split(measured, [g.experts for g in self.routed])
        signs = torch.cat([torch.sign(part.mean() - part) for part in parts])
        self.state.write(self.state() + self.config.bias_rate * signs.to(torch.float32))

    def _normal(self, noise: Tensor | None) -> Tensor | None:
        """Logistic noise -> normal noise of standard deviation 1 / E of its group, by the same uniform numbers."""
        if noise is None:
            return None
        share = torch.sigmoid(noise.double()).clamp(1e-15, 1 - 1e-15)
        normal = torch.special.ndtri(share).to(noise.dtype)
        return torch.cat([part / g.experts for part, g in zip(
            torch.split(normal, [g.experts for g in self.groups], dim=1), self.groups, strict=True)], dim=1)  # fmt: skip

    def _score(self, z: Tensor, mine: Tensor) -> Tensor:
        """(T, N): 0 where an expert does not serve the row."""
        if self.config.score == "sigmoid":
            return torch.sigmoid(z) * mine
        low = torch.finfo(z.dtype).min  # finite: a row that nobody serves must not become NaN
        return torch.softmax(z.masked_fill(~mine, low), dim=1) * mine

    def _top(self, z: Tensor, score: Tensor, mine: Tensor) -> Tensor:
        """(T, k) int64: columns of the row's experts, the best first."""
        ranked = z if self.state is None else score + self.state().to(score.dtype)
        top: Tensor = top_rows(ranked.detach().masked_fill(~mine, float("-inf")).unsqueeze(0), self.k)[0]
        return top

    def _shares(self, score: Tensor, taken: Tensor) -> Tensor:
        """score (T, N), taken (T, N) bool -> gates (T, N) of the experts that are taken."""
        if not self.config.normalise:
            return score
        return score / (score * taken).sum(1, keepdim=True).clamp(min=torch.finfo(score.dtype).tiny)

    @staticmethod
    def _as_mask(top: Tensor, mine: Tensor) -> Tensor:
        return torch.zeros_like(mine).scatter(1, top, True) & mine

    def _within_capacity(self, top: Tensor, best: Tensor, mine: Tensor, rows: Rows) -> Tensor:
        """(T, k) bool: whether the choice has a place in its expert; `best` (T,): the largest score of each row."""
        t, n = mine.shape
        pools = self.pools(rows)
        count = self.counted(mine.view(pools, -1, n).sum(1), self.k * self.capacity_factor)  # (P, N)
        order = torch.arange(t // pools, device=top.device).expand(pools, -1)
        if self.config.priority:
            order = top_rows(best.detach().view(pools, 1, -1), t // pools)[:, 0]
        # (P, k S): choices in their order of precedence, all first ones before all second ones
        queue = top.view(pools, -1, self.k).gather(1, order.unsqueeze(2).expand(-1, -1, self.k)).transpose(1, 2).flatten(1)
        serves = mine.any(1).view(pools, -1).gather(1, order).repeat(1, self.k)
        ahead = torch.zeros(pools, queue.shape[1], n, dtype=torch.int64, device=top.device)
        ahead = ahead.scatter(2, queue.unsqueeze(2), serves.long().unsqueeze(2)).cumsum(1)
        place = ahead.gather(2, queue.unsqueeze(2))[:, :, 0]  # from 1
        kept = (place <= count.gather(1, queue)).view(pools, self.k, -1).transpose(1, 2)
        back = torch.zeros_like(kept).scatter(1, order.unsqueeze(2).expand_as(kept), kept)
        return back.reshape(t, self.k)

    def _planned(self, top: Tensor, gates: Tensor, kept: Tensor, rows: Rows, scores: Scores) -> Plan:
        """The plan of all groups: choices (T, k), and the places that groups of one have without choice."""
        experts = sum(g.experts for g in self.groups)
        numbers, first = [], 0
        for g in self.groups:
            if g.experts > 1:
                numbers.append(torch.arange(first, first + g.experts, device=top.device))
            first += g.experts
        expert = torch.where(kept, torch.cat(numbers)[top], experts)
        serving, first = served(self.groups, rows), 0
        beside = []
        for g in self.groups:
            if g.experts == 1 and g.name != SHARED:  # serves rows that no routed group does
                mine = serving[first].unsqueeze(1)
                alone = torch.cat([mine, torch.zeros_like(expert[:, 1:], dtype=torch.bool)], dim=1)
                expert, gates = torch.where(alone, first, expert), torch.where(alone, 1.0, gates)
            elif g.experts == 1:
                beside.append(torch.full_like(expert[:, :1], first))
            first += g.experts
        if beside:
            expert = torch.cat([expert, *beside], dim=1)
            gates = torch.cat([gates, *[torch.ones_like(gates[:, :1])] * len(beside)], dim=1)
        return plan_of_assignment(expert, gates, experts, self._places(rows, len(beside)), scores)

    def _places(self, rows: Rows, beside: int) -> int | None:
        """How many places there are, where the host knows."""
        if rows.budget is None or not self.config.dropless:
            return None
        sequences = rows.modality.shape[0]
        each = {m: self.k if g.experts > 1 else 1 for g in self.groups if g.name != SHARED for m in g.modalities}
        return sequences * sum(n * (each[m] + beside) for m, n in enumerate(rows.budget))
