"""Which expert took each row: a model's decisions as numbers that a page or a picture can show.

Under causal routing a row may be taken by no expert, by one or by several; of several the one with the largest gate counts.
Experts of a group of one have no gate and no choice: they count for rows that no routed group serves. Shared experts take
every row and never count. A layer of a mixture of depths passes some rows by.

Shape legend: T rows, E experts of a layer, K kept rows. Draws nothing (reports/drawing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from momafuse.generation.passes import pass_of
from momafuse.models.block import Decision
from momafuse.models.experts import layer_groups
from momafuse.models.transformer import Transformer
from momafuse.routing.auxiliary import Routing
from momafuse.routing.names import NONE, PASSED, SHARED
from momafuse.routing.plan import Group, Plan
from momafuse.tokens.vocabulary import Vocabulary


@dataclass(frozen=True)
class Taken:
    """What the experts of one layer did with T rows. `names` are those of all its experts, in order of their numbers."""

    names: tuple[str, ...]
    counting: tuple[int, ...]  # numbers of those that count
    routed: bool  # whether a router chose: experts, or which rows the layer keeps
    expert: npt.NDArray[np.int64]  # (T,) number of the expert with the largest gate, or NONE, or PASSED
    gate: npt.NDArray[np.float64]  # (T,) its gate; 1 without a router, 0 where no expert took the row
    count: npt.NDArray[np.int64]  # (T,) experts that took the row, shared ones left out


@torch.inference_mode()
def experts_of_rows(model: Transformer, vocabulary: Vocabulary, ids: Sequence[int]) -> list[Taken]:
    """Each layer's experts of the rows of one document: those that its ids go through when they are made or scored.

    One forward pass under causal routing; a model with routers needs auxiliary ones.
    """
    batch = pass_of([ids], vocabulary, model.embedding.weight.device)
    routing: Routing = "causal" if model.routes else "training"  # without routers nothing looks ahead
    _, decisions = model(batch, lambda hidden, head: None, routing=routing)
    layers = (layer_groups(model.config, model.modality_names, layer) for layer in range(model.config.n_layers))
    return [taken(decision, groups, batch.modality) for decision, groups in zip(decisions, layers, strict=True)]


def taken(decision: Decision, groups: Sequence[Group], modality: Tensor) -> Taken:
    """What a layer of these groups decided, under any routing, of rows whose `modality` is (B, S): T = B * S rows."""
    kept = decision.kept
    mine = modality if kept is None else kept.modality
    gates = _gates(decision.experts, groups, mine.flatten().cpu().numpy())
    count = np.isfinite(gates).sum(axis=1)
    expert = np.where(count > 0, gates.argmax(axis=1), NONE)
    gate = np.where(count > 0, gates.max(axis=1), 0.0)
    if kept is not None:
        rows, t = kept.rows.flatten().cpu().numpy(), modality.numel()
        expert, gate, count = (_spread(x, rows, t, empty) for x, empty in ((expert, PASSED), (gate, 0.0), (count, 0)))
    counting = tuple(e for e, (_, shown) in enumerate(_served(groups)) if shown)
    names = tuple(f"{g.name} {n + 1}" if g.experts > 1 else g.name for g in groups for n in range(g.experts))
    routed = kept is not None or any(g.experts > 1 for g in groups)
    return Taken(names, counting, routed, expert, gate, count)


def _gates(plan: Plan | None, groups: Sequence[Group], modality: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(T, E): the gate of every expert that took a row and counts for it, -inf elsewhere; `modality` (T,) of the rows."""
    experts = sum(g.experts for g in groups)
    gates = np.full((len(modality), experts + 1), -np.inf)
    if plan is None:  # one expert took every row
        gates[:, 0] = 1.0
    else:
        bounds, rows = plan.offsets.cpu().numpy(), plan.rows.cpu().numpy()
        expert = np.searchsorted(bounds[1:], np.arange(len(rows)), side="right")  # padding counts as expert E
        gates[rows, expert] = 1.0 if plan.weights is None else plan.weights.detach().double().cpu().numpy()
    for e, (_, modalities) in enumerate(_served(groups)):
        gates[~np.isin(modality, list(modalities)), e] = -np.inf
    return gates[:, :experts]


def _served(groups: Sequence[Group]) -> list[tuple[Group, set[int]]]:
    """Each expert's group, and the modalities for whose rows the expert counts."""
    routed = {m for g in groups if g.experts > 1 for m in g.modalities}
    found: list[tuple[Group, set[int]]] = []
    for g in groups:
        alone = set() if g.name == SHARED else set(g.modalities) - routed
        found += [(g, set(g.modalities) if g.experts > 1 else alone)] * g.experts
    return found


def _spread(kept: npt.NDArray[Any], rows: npt.NDArray[np.int64], t: int, empty: float) -> npt.NDArray[Any]:
    """Values (K,) of kept rows -> (T,), `empty` where none is kept."""
    found = np.full(t, empty, dtype=kept.dtype)
    found[rows] = kept
    return found
