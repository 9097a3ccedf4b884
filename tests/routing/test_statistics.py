"""Counts of a plan against loops over rows and places."""

from __future__ import annotations

import pytest
import torch

from momafuse.routing.plan import fixed_plan, groups_of
from momafuse.routing.statistics import count_plan
from tests.batches import make_batch
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
    assert (counts + counts).load.tolist() == [[2 * a, 2 * b] for a, b in load]
