"""What a step does for routers beside the model: their losses over the global batch, their state, and the alarm.

Losses are functions of sums over the rows of all ranks and micro-batches (objectives/routing.py). A micro-batch knows its own,
those of the other ranks' same micro-batch, which are added up while the device works, and those before it: the sums of the step
are taken to be these, scaled up. So with one micro-batch a step on each rank, whatever the number of ranks, a loss and its
gradient are those of the global batch; with several the last has all, and earlier ones what was seen so far (as in 2501.11873).
What is reported, and the state of the next step, are made from all of them.

The alarm: an expert that gets less than `STARVED` of its even share of the choices for `PATIENCE` steps, or one that gets more
than `GREEDY` of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from momafuse.data.batch import Batch
from momafuse.models.block import Decision
from momafuse.models.transformer import Transformer
from momafuse.objectives.routing import RouterLosses
from momafuse.routing.kinds import EXPERT_CHOICE, KINDS
from momafuse.routing.plan import Plan, served
from momafuse.routing.rows import Rows
from momafuse.world import World

STARVED, GREEDY, PATIENCE = 0.05, 0.9, 100
ALARMS = 3  # lines at most at one step
REMEDY = "try router.loss.balance=0.01 router.loss.z=0.001, or router.bias_rate=0.001 (docs/routers.md)"


class RouterWork:
    def __init__(self, model: Transformer, world: World, micro_batches: int) -> None:
        """`micro_batches` of a step on each rank."""
        self.world, self.micro_batches = world, micro_batches
        self.routers = {i: r for i, r in enumerate(model.routers()) if r is not None}
        self.groups, kind = model.groups, KINDS[model.router.kind]
        watched = kind.scores and (model.router.kind != EXPERT_CHOICE or model.router.loss.any)
        self.losses = RouterLosses(model.router.loss, model.groups, model.modality_names) if self.routers and watched else None
        self._so_far: Tensor | None = None  # the sums of this step's rows, of all ranks; made once, for it is replayed
        self._measured = sum(r.measures for r in self.routers.values())
        self._streaks: Tensor | None = None  # (2, L, N) steps that each expert has starved, or taken nearly all
        self._said: list[str] = []

    def begin(self) -> None:
        """Before the first micro-batch of a step."""
        if self._so_far is not None:
            self._so_far.zero_()

    def of_micro_batch(self, batch: Batch, decisions: Sequence[Decision], nth: Tensor) -> tuple[Tensor | None, Tensor]:
        """Micro-batch number `nth` (1 ..) of a step -> what its routers add to the loss, and what they add up: float64 on the
        device, none or more."""
        sums, loss = [batch.tokens.new_zeros(0, dtype=torch.float64)], None
        plans = {
            i: (d.experts, d.kept or batch) for i, d in enumerate(decisions) if d.experts is not None and i in self.routers
        }
        if self.losses is not None and plans:
            part = self.losses.sums(list(plans.values()))
            mine = part.flat().detach().double()
            sums += [mine, self._computed(list(plans.values()))]
            if self.losses.config.any:
                self._so_far = torch.zeros_like(mine) if self._so_far is None else self._so_far
                self._so_far += self.world.sum(mine)
                loss = self.losses.of_part(part, self._so_far * self.micro_batches / nth)
        for i, router in self.routers.items():
            if router.measures:
                scores = plans[i][0].scores if i in plans else None
                found = None if scores is None else scores.measured
                sums.append(sums[0].new_zeros(router.measures) if found is None else found)
        return loss, torch.cat(sums)

    def _computed(self, plans: Sequence[tuple[Plan, Rows]]) -> Tensor:
        """(1,) float64: the choices of all layers that their experts computed."""
        alone = [g for g in self.groups if g.experts == 1]
        found = [(plan.slots >= 0).sum() for plan, _ in plans]
        found += [-served(alone, rows).sum() for _, rows in plans] if alone else []
        return torch.stack(found).sum().double().view(1)

    def row(self, sums: Sequence[float]) -> dict[str, float]:
        """`router/NAME` of each loss, `router/max_violation`, and `router/dropped`, the share of choices that a capacity or a
        bound undid, from the sums of all micro-batches and ranks."""
        flat = torch.tensor(sums[: len(sums) - self._measured], dtype=torch.float64)
        if self.losses is None or not flat.numel():
            return {}
        s, computed = self.losses.unflattened(flat[:-1]), float(flat[-1])
        values, loads = self.losses.values(s), self.losses.loads(s)
        self._said = self._alarms(loads)
        row = {f"router/{name}": float(value) for name, value in values.items()}
        row |= {"router/max_violation": float(loads.max()) - 1}
        row |= {"router/dropped": 1 - computed / max(1.0, float(s.choices.sum()))}
        return row | ({"train/router_loss": float(self.losses.total(values))} if self.losses.config.any else {})

    def said(self) -> list[str]:
        """What people must know of the last `row`."""
        said, self._said = self._said, []
        return said

    def update(self, sums: Tensor) -> None:
        """Write the routers' state from the same sums, on the device, after an update."""
        parts = torch.split(sums[sums.numel() - self._measured :], [r.measures for r in self.routers.values()])
        for router, part in zip(self.routers.values(), parts, strict=True):
            if router.measures:
                router.update(part)

    def _alarms(self, loads: Tensor) -> list[str]:
        """loads (L, N), 1 for an even one -> a line for each expert that has just starved, or taken nearly all, for long."""
        assert self.losses is not None
        experts = torch.cat([torch.full((g.experts,), float(g.experts)) for g in self.losses.groups]).double()
        now = torch.stack([loads < STARVED, loads > GREEDY * experts])
        self._streaks = torch.where(now, 1 if self._streaks is None else self._streaks + 1, 0)
        names = [(g.name, e) for g in self.losses.groups for e in range(g.experts)]
        layers, lines = list(self.routers), []
        for kind, layer, column in (self._streaks == PATIENCE).nonzero().tolist():
            name, expert = names[column]
            what = f"less than {STARVED:.0%} of its even share" if kind == 0 else f"more than {GREEDY:.0%}"
            lines.append(
                f"router of layer {layers[layer]}: expert {expert} of `{name}` has got {what} of the choices "
                f"for {PATIENCE} steps, {'it starves' if kind == 0 else 'the others starve'}"
            )
        rest = [f"and {len(lines) - ALARMS} experts more"] if len(lines) > ALARMS else []
        return [*lines[:ALARMS], *rest, REMEDY] if lines else []
