"""The ragged choice of a router, for rows whose counts only the device knows, is the constant one where counts are the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from momafuse.routing.plan import groups_of
from tests.batches import make_batch
from tests.routing.test_routers import DIM, make_router

CASES = [
    {"text": 4, "image": 4},
    {"text": 3, "image": 1},
    {"all": 8},
    {"text": 2, "image": 2, "shared": 1},
    {"all": 3, "shared": 2},
]


@given(
    experts=st.sampled_from(CASES),
    text=st.integers(0, 9),
    image=st.integers(0, 9),
    sequences=st.integers(1, 3),
    factor=st.sampled_from([1.0, 0.5, 1.15, 2.0, 3.0]),
    noisy=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_ragged_choice_is_the_constant_one(experts, text, image, sequences, factor, noisy, seed):
    """In pools of one sequence: a pool of uncounted rows is one of their stretches."""
    batch = make_batch(sequences, (text, image) if text + image else (0, 1), seed=seed)
    router = make_router(groups_of(experts, ("text", "image"), 8), 1, factor)
    generator = torch.Generator().manual_seed(seed)
    t = batch.tokens.numel()
    x = torch.randn(t, DIM, generator=generator, dtype=torch.float64)
    noise = torch.randn(t, sum(g.experts for g in router.groups), generator=generator) if noisy else None
    constant, ragged = router(x, batch, noise), router(x, replace(batch, budget=None), noise)

    assert constant.sizes is not None
    assert ragged.sizes is None
    assert ragged.offsets.tolist() == constant.offsets.tolist()
    used, bounds = int(constant.offsets[-1]), constant.offsets.tolist()
    assert not ragged.rows[used:].any()
    assert not ragged.weights[used:].any()
    taken = []  # (expert, row) -> gate: a group of one expert may have its rows in another order
    for plan in (constant, ragged):
        expert = [e for e, (a, b) in enumerate(pairwise(bounds)) for _ in range(a, b)]
        taken.append(dict(zip(zip(expert, plan.rows[:used].tolist(), strict=True), plan.weights[:used].tolist(), strict=True)))
        for row, slots in enumerate(plan.slots.tolist()):
            assert all(plan.rows[place] == row for place in slots if place >= 0)
    assert taken[0] == pytest.approx(taken[1], rel=1e-14, abs=0)  # sigmoid rounds rows of another stride otherwise
    assert torch.equal(ragged.slots >= 0, constant.slots >= 0)


@pytest.mark.parametrize(
    ("experts", "rows", "factor", "count"),
    [(2, 200, 1.15, 115), (4, 80, 1.15, 23), (25, 25, 1.0, 1), (25, 100, 1.0, 4), (10, 20, 1.5, 3), (3, 9, 1.0, 3)],
)
def test_the_ragged_capacity_is_floored_as_exactly(experts, rows, factor, count):
    """`factor * rows / experts` is a whole number here, which a share rounded to fp32 would miss."""
    router = make_router(groups_of({"all": experts}, ("text", "image"), 8), 1, factor)
    batch = make_batch(1, (rows // 2, rows - rows // 2))
    x = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for plan in (router(x, batch, None), router(x, replace(batch, budget=None), None)):
        assert plan.offsets.diff().tolist() == [count] * experts


def test_the_gradient_of_gates_passes_padding_by():
    router = make_router(groups_of({"text": 2, "image": 2}, ("text", "image"), 8), 1)
    batch = make_batch(2, (5, 3))
    x = torch.randn(16, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = []
    for rows in (batch, replace(batch, budget=None)):
        leaf = x.clone().requires_grad_()
        plan = router(leaf, rows, None)
        (plan.weights * (plan.rows + 1)).sum().backward()
        gradients.append((leaf.grad, *(w.grad.clone() for w in router.weight.values())))
        router.zero_grad()
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
