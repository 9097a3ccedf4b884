"""The feed-forward half of a block: groups of experts, each group one stacked parameter per projection.

`dense` is one group of one expert for all modalities; `moma_4t4i` two groups of four; the class is the same (docs/design.md,
idea 2). Every group is computed on every step, with no rows if need be.

State: `router.weight.GROUP (E_g, D)` where E_g > 1, `router.state.GROUP (E_g,)` of kinds that have one, `auxiliary.*`
(routing/auxiliary.py) if asked for,
`GROUP.gate (E_g, D, F)`, `GROUP.up (E_g, D, F)`,
`GROUP.down (E_g, F, D)` under `groups.`. Does not choose rows (routing/) and does not multiply (kernels/).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from momafuse.config.schema import ModelConfig
from momafuse.kernels.experts import Backend, apply_experts
from momafuse.kernels.reference import swiglu_reference
from momafuse.kernels.weights import GroupWeights
from momafuse.models.context import Context
from momafuse.routing.auxiliary import Auxiliary, Lesson, taken_by
from momafuse.routing.names import ALL
from momafuse.routing.plan import Group, Plan, groups_of, of_routed, served
from momafuse.routing.routers import Router


def expert_width(ffn: int, multiple_of: int, share: float = 1.0) -> int:
    """The hidden width of a SwiGLU with the parameters of a plain FFN of width `ffn`: int(2/3 ffn share), rounded up."""
    width = int(2 * ffn / 3 * share)
    return -(-width // multiple_of) * multiple_of


def expert_groups(config: ModelConfig, modality_names: Sequence[str]) -> tuple[Group, ...]:
    """The groups of the layers that have experts."""
    width = expert_width(config.ffn, config.ffn_multiple_of)
    narrow = {name: expert_width(config.ffn, config.ffn_multiple_of, share) for name, share in config.width_share.items()}
    return groups_of(config.groups(modality_names), modality_names, width, narrow)


def layer_groups(config: ModelConfig, modality_names: Sequence[str], layer: int) -> tuple[Group, ...]:
    """The groups of one layer: the experts, or one dense FFN between."""
    if config.has_experts(layer):
        return expert_groups(config, modality_names)
    return groups_of({ALL: 1}, modality_names, expert_width(config.ffn, config.ffn_multiple_of))


class ExpertGroup(nn.Module):
    def __init__(self, group: Group, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(group.experts, dim, group.width))
        self.up = nn.Parameter(torch.empty(group.experts, dim, group.width))
        self.down = nn.Parameter(torch.empty(group.experts, group.width, dim))

    def forward(self, dtype: torch.dtype) -> GroupWeights:
        """The stacks in the dtype of the rows, as the op takes them."""
        return GroupWeights(self.gate.to(dtype), self.up.to(dtype), self.down.to(dtype))


class Experts(nn.Module):
    def __init__(
        self, groups: Sequence[Group], dim: int, router: Router | None, backend: Backend, auxiliary: bool = False
    ) -> None:
        """`router` is None where no group has several experts; `auxiliary`: whether it has an auxiliary router."""
        super().__init__()
        self.members = tuple(groups)
        self.router = router
        guessed = router is not None and auxiliary and router.config.needs_auxiliary
        self.auxiliary = Auxiliary({g.name: g.experts for g in router.routed}, dim) if router and guessed else None
        self.groups = nn.ModuleDict({g.name: ExpertGroup(g, dim) for g in groups})
        self.backend: Backend = backend

    def forward(self, x: Tensor, context: Context, noise: Tensor | None) -> tuple[Tensor, Plan | None, Lesson | None]:
        """x (B, S, D), noise (T, E) or None -> y (B, S, D), the plan it came from, and what the auxiliary router can learn.

        No plan: one expert took every row. Lessons are given under `teaching` only.
        """
        rows = x.flatten(0, 1)
        if context.memory is not None and context.memory.rows and context.memory.read:
            return self._step(rows, context).view_as(x), None, None
        plan, lesson = None, None
        if self.router is not None:
            plan, lesson = self._routed(self.router, rows, context, noise)
        elif len(self.groups) > 1:
            plan = context.fixed
        y = apply_experts(rows, plan, [g(x.dtype) for g in self.groups.values()], self.backend)
        return y.view_as(x), plan, lesson

    def _step(self, x: Tensor, c: Context) -> Tensor:
        """A step of decoding, x (T, D) of few rows -> y (T, D): the host reads what was chosen causally, and only
        experts that took a row compute. No plan is made."""
        if len(self.members) == 1 and self.router is None:
            return swiglu_reference(x, *(w[0] for w in self.groups[self.members[0].name](x.dtype)))
        y, modality, first = torch.zeros_like(x), c.rows.modality.flatten().tolist(), 0
        if self.router is not None:
            z = self.router.logits(x)
            taken = self._taken(x, c) if self.router.config.needs_auxiliary else self.router.choose(z, c.rows)
            gates, choices = self.router.weigh(z, taken, c.rows).to(x.dtype), taken.t().tolist()
        for g in self.members:
            if g.experts == 1:
                if mine := [t for t, m in enumerate(modality) if m in g.modalities]:
                    y[mine] += swiglu_reference(x[mine], *(w[0] for w in self.groups[g.name](x.dtype)))
                continue
            for e in range(g.experts):
                if mine := [t for t, chose in enumerate(choices[first + e]) if chose]:
                    out = swiglu_reference(x[mine], *(w[e] for w in self.groups[g.name](x.dtype)))
                    y[mine] += out * gates[mine, first + e : first + e + 1]
            first += g.experts
        return y

    def _taken(self, rows: Tensor, c: Context) -> Tensor:
        """(T, N) bool: what auxiliary routers choose."""
        assert self.router is not None
        assert self.auxiliary is not None, "this routing needs auxiliary routers"
        said: Tensor = self.auxiliary(rows) > 0
        return said & served(self.router.routed, c.rows).t()

    def _routed(self, router: Router, rows: Tensor, c: Context, noise: Tensor | None) -> tuple[Plan, Lesson | None]:
        if c.replay is not None and c.replay.experts is not None:
            taken, scores = of_routed(taken_by(c.replay.experts, len(rows)), self.members), c.replay.experts.scores
            return router(rows, c.rows, noise, taken=taken, chosen=None if scores is None else scores.chosen), None
        needed = router.config.needs_auxiliary
        if c.routing == "causal":
            return router(rows, c.rows, None, ahead=False, taken=self._taken(rows, c) if needed else None), None
        plan: Plan = router(rows, c.rows, noise)
        if c.routing == "training" or not needed:
            return plan, None
        assert self.auxiliary is not None, "this routing needs auxiliary routers"
        with torch.enable_grad():  # the model around it may run without
            guessed = self.auxiliary(rows)
        taken = of_routed(taken_by(plan, len(rows)), self.members)
        return plan, Lesson(guessed, taken, served(router.routed, c.rows).t(), c.rows.modality.flatten())
