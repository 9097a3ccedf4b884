"""Counts of a plan against loops over rows and places."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from momafuse.routing.plan import fixed_plan, groups_of
from momafuse.routing.statistics import chosen_counts, chosen_shares, count_plan
from tests.batches import make_batch
from tests.routing.test_depth import make_depth
from tests.routing.test_routers import DIM, make_router


@pytest.mark.parametrize("experts", [{"text": 3, "image": 2}, {"all": 4}, {"text": 1, "image": 1}])
def test_counts_agree_with_loops(experts):
    batch = make_batch(4, (5, 7))
    router = make_router(groups_of(experts, ("text", "image"), 8), pool=2)
    plan = router(torch.randn(48, DIM, dtype=torch.float64), batch, None) if router.routed else fixed_plan(router.groups, batch)
    counts = count_plan(plan, batch, 2)
    n_experts = sum(experts.values())
    load = [[0, 0] for _ in range(n_experts)]
    times = [0] * 48
    modality = batch.modality.flatten().tolist()
    bounds = plan.offsets.tolist()
    for e in range(n_experts):
        for row in plan.rows[bounds[e] : bounds[e + 1]].tolist():
            load[e][modality[row]] += 1
            times[row] += 1
    chosen = [[0, 0, 0], [0, 0, 0]]
    for row in range(48):
        chosen[modality[row]][min(times[row], 2)] += 1
    assert counts.load.tolist() == load
    assert counts.chosen.tolist() == chosen
    assert chosen_counts(plan, batch, 2).tolist() == chosen
    assert (counts + counts).load.tolist() == [[2 * a, 2 * b] for a, b in load]


@pytest.mark.parametrize("experts", [{"text": 3, "image": 2}, {"all": 5, "shared": 1}, {"text": 2, "image": 1}])
def test_padding_is_not_counted(experts):
    """A ragged plan has room to spare, filled with row 0; its counts are those of the same plan without."""
    batch = make_batch(4, (5, 7))
    router = make_router(groups_of(experts, ("text", "image"), 8), pool=1)
    x = torch.randn(48, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    constant, ragged = router(x, batch, None), router(x, replace(batch, budget=None), None)
    assert ragged.rows.numel() > constant.rows.numel()
    mine, wanted = count_plan(ragged, batch, 2), count_plan(constant, batch, 2)
    assert mine.load.tolist() == wanted.load.tolist()
    assert mine.chosen.tolist() == wanted.chosen.tolist()


def test_the_rows_of_a_mixture_of_depths_are_those_that_were_kept():
    batch, depth = make_batch(4, (5, 7)), make_depth(0.5, False, 2)
    router = make_router(groups_of({"text": 2, "image": 2}, ("text", "image"), 8), pool=2)
    x = torch.randn(48, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = depth(x, batch)
    counts = count_plan(router(x[kept.rows.flatten()], kept, None), kept, 2)
    modality = kept.modality.flatten().tolist()
    assert counts.chosen.sum(1).tolist() == [modality.count(0), modality.count(1)]
    of_pools = [kept.modality[pool].tolist() for pool in range(2)]
    assert counts.load.tolist() == [
        [sum(of.count(m) // 2 for of in of_pools) if m == e // 2 else 0 for m in range(2)] for e in range(4)
    ]


def test_shares_are_of_the_rows_of_a_modality():
    shares = chosen_shares([2, 5, 1, 0, 0, 0], ("text", "image"))
    assert shares == {"router/none_text": 0.25, "router/many_text": 0.125}
