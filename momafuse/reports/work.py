"""How many rows each layer of a model computes, by host arithmetic: what FLOPs and active parameters are counted from.

A *pool* is `router.pool` consecutive sequences of the modality budget, from which experts choose together. Counts are those of
the routers themselves (`routing.routers.capacity`, `routing.depth.kept_count`), floors included. With
`model.depth.per_modality=false` only the device knows how many rows of a modality and of a sequence are kept: there the
kept rows are shared out like the budget, which is an expectation (`Work.exact` is False); so it is where rows choose experts.

Does not count parameters (parameters.py), FLOPs (flops.py) or bytes (memory.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from momafuse.config.schema import ModelConfig
from momafuse.models.experts import layer_groups
from momafuse.routing.config import RouterConfig
from momafuse.routing.depth import kept_count
from momafuse.routing.kinds import EXPERT_CHOICE, KINDS
from momafuse.routing.plan import Group
from momafuse.routing.routers import capacity


@dataclass(frozen=True)
class LayerWork:
    """Rows of one pool that one layer computes."""

    depth: bool  # whether a depth router keeps a share of the rows
    experts: bool  # whether it has the experts of the config; False: one dense FFN between
    groups: tuple[Group, ...]
    places: tuple[float, ...]  # of each group, the rows of one expert: whole under expert choice, else on average
    rows: tuple[int, ...]  # of each modality
    span: float  # rows of one sequence, which attend among themselves


@dataclass(frozen=True)
class Work:
    layers: tuple[LayerWork, ...]
    pool: int
    budget: tuple[int, ...]  # rows of each modality in a sequence
    scored: bool  # whether routers compute logits
    constant: bool  # whether experts of a group take as many rows as one another, whatever the batch: expert choice
    exact: bool  # False: only the device will know the counts; these are what is expected

    @property
    def rows(self) -> int:
        """All rows of a pool."""
        return self.pool * sum(self.budget)


def model_work(config: ModelConfig, router: RouterConfig, modality_names: Sequence[str], budget: Sequence[int]) -> Work:
    """The work of all layers for sequences of `budget[m]` rows of modality m."""
    whole = tuple(router.pool * n for n in budget)
    kept, per_modality = whole, True
    if config.depth is not None:
        share, per_modality = config.depth.capacity, config.depth.per_modality
        kept = tuple(router.pool * kept_count(n, share) for n in budget)
        if not per_modality:
            kept = _shared_out(kept_count(sum(whole), share), whole)
    layers = []
    for layer in range(config.n_layers):
        depth, groups = config.skips(layer), layer_groups(config, modality_names, layer)
        rows = kept if depth else whole
        places = tuple(_places(g, rows, router) for g in groups)
        span = sum(rows) / router.pool
        layers.append(LayerWork(depth, config.has_experts(layer), groups, places, rows, span))
    constant = router.kind == EXPERT_CHOICE or all(g.experts == 1 for layer in layers for g in layer.groups)
    return Work(tuple(layers), router.pool, tuple(budget), KINDS[router.kind].scores, constant, per_modality and constant)


def _places(group: Group, rows: Sequence[int], router: RouterConfig) -> float:
    """The rows of a pool that one expert computes: of kinds other than expert choice, what is expected."""
    if router.kind == EXPERT_CHOICE or group.experts == 1:
        return capacity(group, rows, 1, router.capacity_factor)
    return sum(rows[m] for m in group.modalities) * KINDS[router.kind].per_row(router) / group.experts


def _shared_out(total: int, like: Sequence[int]) -> tuple[int, ...]:
    """`total` in whole rows, in the proportions of `like`; what rounding leaves goes to the first."""
    rest = [total * n // sum(like) for n in like[1:]]
    return (total - sum(rest), *rest)
