"""How well auxiliary routers guess, and what a model costs when they choose: held out, by layer and modality.

    precision    of the decisions that they would take, the share that the main routers took
    recall       of those that the main routers took, the share that they would take
    per_row      decisions taken a row: by the main routers, and by them
    flops        of a layer's routed experts a token that reaches them, forward, from the rows that each expert really took
                 under causal routing; under training routing they are constant

Experts by kind `experts`, mixtures of depths by kind `depth`, where per_row is the share of rows that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from momafuse.config.schema import Config
from momafuse.models.block import Decision
from momafuse.models.experts import layer_groups
from momafuse.routing.auxiliary import Lesson
from momafuse.routing.statistics import RoutingCounts
from momafuse.training.held_out import dealt
from momafuse.training.setup import Setup

KINDS = ("experts", "depth")


def lessons(decisions: Sequence[Decision]) -> list[tuple[int, str, Lesson]]:
    """Layer, kind and lesson of every auxiliary router that saw rows."""
    found = []
    for layer, d in enumerate(decisions):
        found += [(layer, kind, x) for kind, x in zip(KINDS, (d.lesson, d.depth_lesson), strict=True) if x is not None]
    return found


@torch.no_grad()
def scores(config: Config, setup: Setup) -> list[dict[str, Any]]:
    """By layer, kind and modality, the same on every rank, which all must call it."""
    setup.model.eval()
    names = setup.model.modality_names
    sums: dict[tuple[int, str], Tensor] = {}
    with setup.working():
        for batch, counted in dealt(config, setup):
            decisions = setup.model(batch, lambda hidden, head: None, None, "teaching")[1]
            for layer, kind, lesson in lessons(decisions):
                found = _agreement(lesson, len(names)) * counted
                sums[layer, kind] = sums[layer, kind] + found if (layer, kind) in sums else found
    setup.model.train()
    if not sums:
        return []
    summed = setup.world.sum(torch.stack(list(sums.values()))).tolist()
    return [
        {"layer": layer, "kind": kind, "modality": name, **_named(*row)}
        for (layer, kind), rows in zip(sums, summed, strict=True)
        for name, row in zip(names, rows, strict=True)
        if row[3]
    ]


def _agreement(lesson: Lesson, modalities: int) -> Tensor:
    """(M, 4) float64: decisions that both took, that the auxiliary and that the main router took, and rows."""
    said, taken = (lesson.logits > 0) & lesson.served, lesson.taken & lesson.served
    columns = [(said & taken).sum(1), said.sum(1), taken.sum(1), lesson.served.any(1)]
    of_row = torch.stack([c.double() for c in columns], dim=1)
    return of_row.new_zeros(modalities, 4).index_add_(0, lesson.modality.long(), of_row)


def _named(right: float, said: float, taken: float, rows: float) -> dict[str, float]:
    return {
        "precision": right / max(1.0, said),
        "recall": right / max(1.0, taken),
        "per_row": taken / rows,
        "per_row_auxiliary": said / rows,
    }


def causal_costs(config: Config, setup: Setup, counts: Sequence[RoutingCounts]) -> list[dict[str, Any]]:
    """By layer with experts and modality under causal routing: experts a row, rows that none took, FLOPs a token."""
    model, found = setup.model, []
    names = model.modality_names
    groups = [layer_groups(config.model, names, layer) for layer in range(config.model.n_layers)]
    with_plan = [layer for layer, own in enumerate(groups) if len(own) > 1 or own[0].experts > 1]
    for layer, c in zip(with_plan, counts, strict=True):
        cost = torch.tensor([6.0 * config.model.dim * g.width for g in groups[layer] for _ in range(g.experts)])
        for m, name in enumerate(names):
            if rows := int(c.chosen[m].sum()):
                load = c.load[:, m].cpu().double()
                found.append(
                    {
                        "layer": layer,
                        "modality": name,
                        "experts_per_row": float(load.sum()) / rows,
                        "chosen_by_none": int(c.chosen[m, 0]) / rows,
                        "flops": round(float(load @ cost.double()) / rows),
                    }
                )
    return found
