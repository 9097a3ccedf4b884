"""Plans against loops over rows: those of choices whose sizes only the device knows, and those by modality."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from momafuse.routing.plan import (
    Group,
    Plan,
    fixed_plan,
    groups_of,
    plan_of_assignment,
    plan_of_choices,
    rows_of,
    served,
    slot_columns,
)
from tests.batches import make_batch

NAMES = ("text", "image", "speech")
GROUPS = [
    {"text": 2, "image": 3, "speech": 1},
    {"text": 1, "image": 1, "speech": 1},
    {"all": 4},
    {"all": 1, "shared": 1},
    {"text": 2, "image": 1, "speech": 1, "shared": 2},
]


def loop_plan(taken: list[list[bool]], bound: int) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """The rows of each expert, and (expert, row) of each place: by expert, then by row, at most `bound` places."""
    places = [(e, r) for e, of_expert in enumerate(taken) for r, yes in enumerate(of_expert) if yes][:bound]
    return [[r for at, r in places if at == e] for e in range(len(taken))], places


def assert_slots(plan: Plan, places: list[tuple[int, int]], groups: tuple[Group, ...]) -> None:
    """Each row names its places, each in the column of its expert."""
    columns, n = slot_columns(groups)
    column = [first + local for g, first in zip(groups, columns, strict=True) for local in range(g.experts)]
    expected = [[-1] * n for _ in range(plan.slots.shape[0])]
    for place, (e, r) in enumerate(places):
        assert expected[r][column[e]] == -1, "two experts of one row in one column"
        expected[r][column[e]] = place
    assert plan.slots.tolist() == expected


@given(
    experts=st.sampled_from(GROUPS),
    budget=st.tuples(*[st.integers(0, 4)] * 3),
    density=st.floats(0, 1),
    spare=st.integers(-6, 4),
    gated=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_plan_of_choices_agrees_with_loops_over_rows(experts, budget, density, spare, gated, seed):
    """`spare` places more than are taken, or fewer: then the last ones are dropped."""
    groups, batch = groups_of(experts, NAMES, 8), make_batch(2, budget if sum(budget) else (1, 0, 0), vocabulary=63, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    allowed = served(groups, batch)
    taken = allowed & (torch.rand(allowed.shape, generator=generator) < density)
    gates = torch.rand(allowed.shape, generator=generator, dtype=torch.float64).requires_grad_() if gated else None
    bound = max(0, int(taken.sum()) + spare)
    plan = plan_of_choices(taken, gates, groups, bound)
    rows, places = loop_plan(taken.tolist(), bound)

    assert plan.sizes is None
    assert plan.offsets.tolist() == [sum(map(len, rows[:e])) for e in range(len(rows) + 1)]
    assert plan.rows.tolist() == [r for _, r in places] + [0] * (bound - len(places))
    assert_slots(plan, places, groups)
    assert (plan.weights is None) == (gates is None)
    if plan.weights is not None and gates is not None:
        assert plan.weights.tolist() == [gates[at].item() for at in places] + [0.0] * (bound - len(places))
        plan.weights.sum().backward()
        expected = torch.zeros_like(gates)
        for at in places:
            expected[at] = 1
        assert torch.equal(gates.grad, expected)


@given(experts=st.sampled_from(GROUPS), budget=st.tuples(*[st.integers(0, 4)] * 3), seed=st.integers(0, 1000))
def test_served_agrees_with_loops_over_rows(experts, budget, seed):
    groups, batch = groups_of(experts, NAMES, 8), make_batch(2, budget, vocabulary=63, seed=seed)
    modality = batch.modality.flatten().tolist()
    expected = [[m in g.modalities for m in modality] for g in groups for _ in range(g.experts)]
    assert served(groups, batch).tolist() == expected


@dataclass(frozen=True)
class Uncounted:
    """Rows whose counts only the device knows."""

    modality: Tensor
    order: Tensor
    budget: None = None


@pytest.mark.parametrize("counted", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("experts", [g for g in GROUPS if max(g.values()) == 1 and len(g) > 1], ids=str)
@pytest.mark.parametrize("budget", [(3, 4, 2), (0, 4, 2), (5, 0, 0)], ids=str)
def test_the_plan_of_groups_of_one_has_every_row_once_for_each_group_that_serves_it(experts, budget, counted):
    groups, batch = groups_of(experts, NAMES, 8), make_batch(2, budget, vocabulary=63)
    plan = fixed_plan(groups, batch if counted else Uncounted(batch.modality, batch.order))
    assert plan is not None
    assert plan.weights is None
    assert (plan.sizes is not None) == counted
    modality, bounds = batch.modality.flatten().tolist(), plan.offsets.tolist()
    places = []
    for e, g in enumerate(groups):
        mine = plan.rows[bounds[e] : bounds[e + 1]].tolist()
        places += [(e, r) for r in mine]
        assert sorted(mine) == [r for r, m in enumerate(modality) if m in g.modalities]
        assert mine == sorted(mine) or len(g.modalities) > 1
        if plan.sizes is not None:
            assert plan.sizes[e] == len(mine)
    assert bounds[-1] == plan.rows.numel(), "no padding: every row is served"
    assert_slots(plan, places, groups)


def test_the_rows_of_a_group_of_two_modalities_of_three():
    batch = make_batch(2, (3, 4, 2), vocabulary=63)
    mine = rows_of(Group("both", 1, (0, 2), 8), batch)
    assert sorted(mine.tolist()) == [r for r, m in enumerate(batch.modality.flatten().tolist()) if m != 1]


def test_shared_experts_are_one_of_their_total_width():
    groups = groups_of({"text": 2, "image": 1, "shared": 3}, ("text", "image"), 8, {"image": 4, "shared": 5})
    assert groups == (Group("text", 2, (0,), 8), Group("image", 1, (1,), 4), Group("shared", 1, (0, 1), 15))


def expert_of(first: int, experts: int, n: int, generator: torch.Generator) -> list[int]:
    """n different ones of so many experts, in any order."""
    return (first + torch.randperm(experts, generator=generator)[:n]).tolist()


@given(
    experts=st.integers(1, 5),
    rows=st.integers(0, 9),
    n=st.integers(1, 3),
    density=st.floats(0, 1),
    gated=st.booleans(),
    counted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_plan_of_assignment_agrees_with_loops_over_rows(experts, rows, n, density, gated, counted, seed):
    """Each row names its experts, or none, in its own order; `counted`: the host knows how many there are."""
    n, generator = min(n, experts), torch.Generator().manual_seed(seed)
    expert = [expert_of(0, experts, n, generator) for _ in range(rows)]
    none = (torch.rand(rows, n, generator=generator) >= density).tolist()
    expert = [[experts if no else e for e, no in zip(*pair, strict=True)] for pair in zip(expert, none, strict=True)]
    gates = torch.rand(rows, n, generator=generator, dtype=torch.float64).requires_grad_() if gated else None
    places = [(e, r, i) for e in range(experts) for r in range(rows) for i in range(n) if expert[r][i] == e]
    numbers = torch.tensor(expert, dtype=torch.int64).view(rows, n)
    plan = plan_of_assignment(numbers, gates, experts, len(places) if counted else None)

    padding = 0 if counted else rows * n - len(places)
    assert plan.sizes is None
    assert plan.offsets.tolist() == [sum(at < e for at, _, _ in places) for e in range(experts + 1)]
    assert plan.rows.tolist() == [r for _, r, _ in places] + [0] * padding
    wanted = [[-1] * n for _ in range(rows)]
    for place, (_, r, i) in enumerate(places):
        wanted[r][i] = place
    assert plan.slots.tolist() == wanted
    assert (plan.weights is None) == (gates is None)
    if plan.weights is not None and gates is not None:
        assert plan.weights.tolist() == [gates[r, i].item() for _, r, i in places] + [0.0] * padding
        plan.weights.sum().backward()
        expected = torch.zeros_like(gates)
        for _, r, i in places:
            expected[r, i] = 1
        assert torch.equal(gates.grad, expected)
