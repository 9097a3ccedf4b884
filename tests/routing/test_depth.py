"""Which rows a depth router keeps, against plain loops over rows."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from momafuse.routing.depth import DepthRouter, kept_count
from tests.batches import make_batch

DIM = 6


def make_depth(capacity: float, per_modality: bool, pool: int) -> DepthRouter:
    router = DepthRouter(DIM, capacity, per_modality, pool).double()
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(3))
    return router


@given(
    budget=st.tuples(*[st.integers(0, 6)] * 3).filter(any),
    pool=st.sampled_from([1, 2]),
    pools=st.integers(1, 2),
    capacity=st.sampled_from([0.1, 0.25, 0.5, 0.7, 1.0]),
    per_modality=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_kept_rows_agree_with_loops(budget, pool, pools, capacity, per_modality, seed):
    batch = make_batch(pool * pools, budget, vocabulary=63, seed=seed)
    sequences, length = batch.shape
    router = make_depth(capacity, per_modality, pool)
    x = torch.randn(sequences * length, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kept = router(x, batch)

    modality, share = batch.modality.flatten().tolist(), Fraction(str(capacity))
    z = [sum(float(x[r, d] * router.weight.detach()[0, d]) for d in range(DIM)) for r in range(sequences * length)]
    size = length if per_modality else pool * length
    expected = []
    for first in range(0, sequences * length, size):
        stretch = range(first, first + size)
        rivals = [[r for r in stretch if modality[r] == m] for m in range(3)] if per_modality else [list(stretch)]
        taken = [r for them in rivals for r in sorted(them, key=lambda r: (-z[r], r))[: math.floor(len(them) * share)]]
        expected.append(sorted(taken))
    assert kept.rows.tolist() == expected
    assert kept.modality.tolist() == [[modality[r] for r in rows] for rows in expected]
    gates = [[1 / (1 + math.exp(-z[r])) for r in rows] for rows in expected]
    torch.testing.assert_close(kept.gates, torch.tensor(gates, dtype=torch.float64).view_as(kept.gates), rtol=1e-12, atol=1e-12)
    flat = [modality[r] for rows in expected for r in rows]
    assert kept.order.tolist() == sorted(range(len(flat)), key=lambda i: (flat[i], i))
    counts = tuple(math.floor(n * share) for n in budget)
    assert kept.budget == (counts if per_modality else None)


def test_the_share_is_floored_as_written():
    assert kept_count(100, 0.29) == 29  # 28.999999999999996 in floats
    assert kept_count(3, 0.25) == 0
    assert kept_count(7, 1.0) == 7


@pytest.mark.parametrize("per_modality", [True, False])
def test_equal_scores_keep_the_lower_rows(per_modality):
    batch = make_batch(2, (4, 4))
    kept = make_depth(0.5, per_modality, 2)(torch.ones(16, DIM, dtype=torch.float64), batch)
    if per_modality:
        for b in range(2):
            for m in range(2):
                rows = [r for r in range(8 * b, 8 * b + 8) if batch.modality.flatten()[r] == m]
                assert set(rows[:2]) < set(kept.rows[b].tolist())
    else:
        assert kept.rows.tolist() == [list(range(8))]


def test_the_choice_over_pools_refuses_a_part_of_one():
    with pytest.raises(ValueError, match=r"router\.pool=4"):
        make_depth(0.5, False, 4)(torch.randn(24, DIM).double(), make_batch(3, (4, 4)))


@pytest.mark.parametrize("per_modality", [True, False])
def test_a_gate_has_the_gradient_of_a_sigmoid_and_the_choice_has_none(per_modality):
    batch, router = make_batch(2, (4, 3)), make_depth(0.5, per_modality, 2)
    x = torch.randn(14, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    kept = router(x, batch)
    kept.gates.sum().backward()
    expected = torch.zeros_like(x)
    for row in kept.rows.flatten().tolist():
        g = torch.sigmoid(x[row].detach() @ router.weight[0].detach())
        expected[row] = g * (1 - g) * router.weight[0].detach()
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-12)


def test_the_gates_of_bf16_rows_are_fp32():
    kept = DepthRouter.forward(
        make_depth(0.5, True, 1).float(), torch.ones(8, DIM, dtype=torch.bfloat16), make_batch(1, (4, 4))
    )
    assert kept.gates.dtype == torch.float32
