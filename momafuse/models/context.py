"""What all layers of one forward share, computed once: rotary table, attention mask, by-modality and fixed plan.

A layer of a mixture of depths works on some of the rows and makes the context of these from that of all rows (`of_kept`).
Shape legend: B sequences, S rows of one, T = B * S, K width of a head, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from momafuse.kernels.attention import Mask, who_sees_whom
from momafuse.kernels.experts import Backend
from momafuse.models.memory import Memory
from momafuse.routing.auxiliary import Routing
from momafuse.routing.depth import Kept
from momafuse.routing.plan import Group, Plan, fixed_plan
from momafuse.routing.rows import Rows


class Input(Rows, Protocol):
    """What a model reads; `data.batch.Batch` is one."""

    @property
    def document(self) -> Tensor: ...  # (B, S) integers
    @property
    def begins(self) -> Tensor | None: ...  # as `data.batch.Batch.begins`


class Replayed(Protocol):
    """What routers of a layer decided; `models.block.Decision` is one."""

    @property
    def experts(self) -> Plan | None: ...
    @property
    def kept(self) -> Kept | None: ...


@dataclass(frozen=True)
class Recipe:
    """Which of the shared things a model needs: they follow from its groups and from what is untied."""

    groups: tuple[Group, ...]
    towers: tuple[Group, ...]  # a group of one expert for each modality, or several: the plan of untied projections
    modalities: int
    untied_projections: bool
    untied_norms: bool
    backend: Backend

    def context(
        self,
        rows: Rows,
        table: Tensor,
        span: Tensor | None,
        dtype: torch.dtype,
        routing: Routing = "training",
        begins: Tensor | None = None,
    ) -> Context:
        """`table` (2, B, 1, S, K / 2) of `rotary_table`; `span` (B, S): rows see rows of the same number; None: all before.

        `dtype` is that of the rows of the model; `begins` where the spans begin, if they are the documents of a batch.
        """
        by_modality = fixed_plan(self.towers, rows) if self.untied_projections else None
        if all(g.experts == 1 for g in self.groups):
            same = by_modality is not None and _serve(self.groups) == _serve(self.towers)
            fixed = by_modality if same else fixed_plan(self.groups, rows)
        else:
            fixed = None
        one_hot = None
        if self.untied_norms:
            one_hot = rows.modality.unsqueeze(-1) == torch.arange(self.modalities, device=table.device)
        constant = routing != "causal"  # there a depth router keeps as many rows as it likes, and texts have their own lengths
        width = 2 * table.shape[-1]
        mask = None if span is None else who_sees_whom(self.backend, span, begins, width, dtype, constant=constant)
        return Context(rows, table, span, mask, by_modality, one_hot, fixed, routing)

    def of_kept(self, context: Context, kept: Kept, dtype: torch.dtype) -> Context:
        """The context of the rows that a depth router kept."""
        table = context.table.flatten(1, 3)[:, kept.rows].unsqueeze(2)
        sequences, length = context.rows.modality.shape
        span = None if context.span is None else context.span.flatten()[kept.rows]
        if kept.rows.shape[0] != sequences:  # a row of `kept` is a pool: what was apart by sequence stays apart by span
            sequence = kept.rows // length
            span = sequence if span is None else sequence * length + span
        mine = self.context(kept, table, span, dtype, context.routing)
        if context.replay is not None:
            mine = replace(mine, replay=context.replay)
        memory = context.memory
        return mine if memory is None else replace(mine, memory=memory.of_kept(kept.rows.flatten()))


@dataclass(frozen=True)
class Context:
    rows: Rows
    table: Tensor  # (2, B, 1, S, K / 2)
    span: Tensor | None  # (B, S) integers
    mask: Mask | None  # who sees whom (kernels/attention.py); None: causal
    by_modality: Plan | None  # where projections are untied
    one_hot: Tensor | None  # (B, S, M) bool, where norms are untied
    fixed: Plan | None  # the plan of the experts where no group is routed
    routing: Routing = "training"  # who chooses rows
    replay: Replayed | None = None  # what the layer's routers decided before, and decide again
    memory: Memory | None = None  # the layer's own, where rows of earlier passes are kept


def recipe(groups: Sequence[Group], towers: Sequence[str], untie: Sequence[str], backend: Backend) -> Recipe:
    """`towers`: of each modality, the name of what is untied."""
    members = {name: tuple(m for m, other in enumerate(towers) if other == name) for name in towers}
    each = tuple(Group(name, 1, modalities, 0) for name, modalities in members.items())
    return Recipe(tuple(groups), each, len(towers), not {"qkv", "out"}.isdisjoint(untie), "norms" in untie, backend)


def rotary_table(position: Tensor, head_dim: int, theta: float) -> Tensor:
    """position (B, S) -> (2, B, 1, S, K / 2) fp32: cosines and sines of the angles position * theta ** (-2 i / K)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=position.device, dtype=torch.float64) / head_dim)
    angle = (position.double()[:, None, :, None] * frequency).float()
    return torch.stack([angle.cos(), angle.sin()])


def _serve(groups: Sequence[Group]) -> list[tuple[int, ...]]:
    return [g.modalities for g in groups]
