"""Expert choice against plain loops over rows, and the plans of groups of one."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momafuse.data.batch import begins_of
from momafuse.routing.expert_choice import ExpertChoice
from momafuse.routing.plan import Group, fixed_plan, groups_of, slot_columns
from momafuse.routing.routers import Router, capacity, top_rows
from tests.batches import make_batch, router_config

DIM = 6


def make_router(groups: tuple[Group, ...], pool: int, capacity_factor: float = 1.0) -> Router:
    router = ExpertChoice(groups, DIM, router_config(pool=pool, capacity_factor=capacity_factor)).double()
    generator = torch.Generator().manual_seed(3)
    for p in router.parameters():
        torch.nn.init.normal_(p, generator=generator)
    return router


def loop_choice(x, router, batch, noise=None):
    """Expert -> [(row, gate)] in order of row within each pool, from the definition: one expert and one row at a time."""
    sequences, length = batch.shape
    modality = batch.modality.flatten().tolist()
    result, e = [], 0
    for g in router.groups:
        for local in range(g.experts):
            taken = []
            if g.experts == 1:
                rows = [r for m in g.modalities for r in range(sequences * length) if modality[r] == m]
                result.append([(r, 1.0) for r in rows])
                e += 1
                continue
            for pool in range(sequences // router.pool):
                rows = range(pool * router.pool * length, (pool + 1) * router.pool * length)
                scores = []
                for r in rows:
                    if modality[r] in g.modalities:
                        z = sum(float(x[r, d] * router.weight[g.name].detach()[local, d]) for d in range(DIM))
                        scores.append((-(z + (0.0 if noise is None else float(noise[r, e]))), r))
                count = math.floor(len(scores) * Fraction(str(router.capacity_factor)) / g.experts)
                taken += sorted((r, 1 / (1 + math.exp(s))) for s, r in sorted(scores)[:count])
            result.append(taken)
            e += 1
    return result


CASES = [
    {"text": 4, "image": 4},
    {"text": 3, "image": 1},
    {"text": 1, "image": 2},
    {"all": 8},
    {"text": 1, "image": 1},
    {"text": 2, "image": 2, "all": 1},
]


@settings(max_examples=40, deadline=None)
@given(
    experts=st.sampled_from(CASES),
    text=st.integers(0, 9),
    image=st.integers(0, 9),
    pool=st.integers(1, 3),
    pools=st.integers(1, 2),
    factor=st.sampled_from([0.5, 1.0, 1.7]),
    noisy=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_expert_choice_agrees_with_loops_over_rows(experts, text, image, pool, pools, factor, noisy, seed):
    if text + image == 0:
        image = 1
    groups = groups_of(experts, ("text", "image"), 8)
    batch = make_batch(pool * pools, (text, image), seed=seed)
    router = make_router(groups, pool, factor)
    generator = torch.Generator().manual_seed(seed)
    t = batch.tokens.numel()
    x = torch.randn(t, DIM, generator=generator, dtype=torch.float64)
    noise = torch.randn(t, sum(experts.values()), generator=generator) if noisy else None
    plan = router(x, batch, noise) if router.routed else fixed_plan(groups, batch)
    expected = loop_choice(x, router, batch, noise)

    offsets = plan.offsets.tolist()
    assert plan.sizes == tuple(len(taken) for taken in expected)
    assert offsets == [sum(plan.sizes[:e]) for e in range(len(plan.sizes) + 1)]
    for e, taken in enumerate(expected):
        assert plan.rows[offsets[e] : offsets[e + 1]].tolist() == [r for r, _ in taken]
        if plan.weights is not None:
            gates = torch.tensor([g for _, g in taken], dtype=torch.float64)
            torch.testing.assert_close(plan.weights[offsets[e] : offsets[e + 1]].double(), gates, rtol=1e-6, atol=1e-9)
    for row, slots in enumerate(plan.slots.tolist()):
        assert sorted(s for s in slots if s >= 0) == [p for p, r in enumerate(plan.rows.tolist()) if r == row]


def test_a_pool_is_routed_alike_in_any_micro_batch():
    router = make_router(groups_of({"text": 2, "image": 2}, ("text", "image"), 8), pool=2)
    batch = make_batch(6, (5, 7))
    x = torch.randn(72, DIM, dtype=torch.float64)
    whole = router(x, batch, None)
    for pool in range(3):
        part = make_batch(6, (5, 7))
        rows = slice(pool * 24, (pool + 1) * 24)
        sub = type(part)(
            *(
                getattr(part, f)[pool * 2 : pool * 2 + 2]
                for f in ("tokens", "targets", "modality", "document", "position", "sequence")
            ),
            begins=begins_of(part.document[pool * 2 : pool * 2 + 2]),
            order=torch.argsort(part.modality[pool * 2 : pool * 2 + 2].flatten(), stable=True),
            budget=part.budget,
        )
        alone = router(x[rows], sub, None)
        for e in range(4):
            a = whole.rows[whole.offsets[e] : whole.offsets[e + 1]]
            b = alone.rows[alone.offsets[e] : alone.offsets[e + 1]]
            assert a[(a >= rows.start) & (a < rows.stop)].tolist() == (b + rows.start).tolist()


def test_equal_logits_go_to_the_lower_row():
    scores = torch.tensor([[[1.0, 2.0, 2.0, 0.0, 2.0, 1.0]]])
    assert top_rows(scores, 4).tolist() == [[[1, 2, 4, 0]]]


SCORE = st.sampled_from([-float("inf"), -1e30, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, 1.0000001, 3e38, float("inf")])


@settings(max_examples=60)
@given(st.data(), st.integers(1, 12))
def test_the_choice_is_that_of_a_stable_sort(data, rows):
    """Ties, both zeros, infinities and numbers below the normal ones included."""
    values = st.one_of(SCORE, st.floats(width=32, allow_nan=False))
    scores = torch.tensor(data.draw(st.lists(st.lists(values, min_size=rows, max_size=rows), min_size=2, max_size=2)))[None]
    sorted_ = scores.argsort(dim=-1, descending=True, stable=True)
    for count in range(rows + 1):
        assert torch.equal(top_rows(scores, count), sorted_[..., :count])
        assert torch.equal(top_rows(scores.double(), count), sorted_[..., :count])


def test_scores_that_are_no_numbers_do_not_stop_the_choice():
    scores = torch.tensor([[[1.0, float("nan"), 2.0]]])
    assert top_rows(scores, 2).tolist() == [[[1, 2]]]


def test_capacity_is_floored_and_may_be_zero():
    group = Group("image", 4, (1,), 8)
    assert capacity(group, (10, 6), pool=2, capacity_factor=1.0) == 3
    assert capacity(group, (10, 1), pool=2, capacity_factor=1.0) == 0
    assert capacity(group, (10, 6), pool=2, capacity_factor=4.0) == 12
    assert capacity(Group("all", 2, (0, 1), 8), (100, 100), pool=1, capacity_factor=1.15) == 115
    assert capacity(Group("image", 1, (1,), 8), (10, 6), pool=2, capacity_factor=1.0) == 12


def test_one_expert_for_everything_needs_no_plan():
    assert fixed_plan(groups_of({"all": 1}, ("text", "image"), 8), make_batch(1, (6, 10))) is None


def test_a_batch_that_does_not_fill_its_pools_is_refused():
    router = make_router(groups_of({"all": 2}, ("text", "image"), 8), pool=4)
    with pytest.raises(ValueError, match=r"router\.pool=4"):
        router(torch.randn(48, DIM).double(), make_batch(3, (6, 10)), None)


def test_the_gate_has_the_gradient_of_a_sigmoid_and_the_choice_has_none():
    groups = groups_of({"text": 2, "image": 1}, ("text", "image"), 8)
    router = make_router(groups, pool=1)
    batch = make_batch(2, (4, 3))
    x = torch.randn(14, DIM, dtype=torch.float64, requires_grad=True)
    plan = router(x, batch, None)
    plan.weights.sum().backward()
    expected = torch.zeros_like(x)
    bounds = plan.offsets.tolist()
    for e in range(2):
        for place in range(bounds[e], bounds[e + 1]):
            row = int(plan.rows[place])
            g = torch.sigmoid(x[row].detach() @ router.weight["text"][e].detach())
            expected[row] += g * (1 - g) * router.weight["text"][e].detach()
    torch.testing.assert_close(x.grad, expected, rtol=1e-10, atol=1e-12)


def test_experts_of_different_modalities_share_slot_columns():
    assert slot_columns(groups_of({"text": 3, "image": 2}, ("text", "image"), 8)) == ((0, 0), 3)
    assert slot_columns(groups_of({"text": 3, "image": 2, "all": 1}, ("text", "image"), 8)) == ((0, 0, 3), 4)
    assert slot_columns(groups_of({"all": 2, "image": 2}, ("text", "image"), 8)) == ((0, 2), 4)
