"""What is told of routers, against loops over single rows and textbook formulas."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from momafuse.routing.kinds import KINDS
from momafuse.routing.plan import groups_of
from momafuse.routing.report import (
    RouterSums,
    StateSums,
    apart,
    count_routers,
    counting,
    explained,
    similarity,
    summed,
    unused_capacity,
)
from tests.batches import make_batch, router_config
from tests.routing.test_depth import make_depth
from tests.routing.test_routers import DIM, make_router

CASES = [
    ("expert_choice", {"text": 3, "image": 2}, {}),
    ("expert_choice", {"all": 4, "shared": 1}, {}),
    ("expert_choice", {"text": 3, "image": 1}, {}),
    ("token_choice", {"all": 4}, {"top_k": 2, "dropless": False, "capacity_factor": 0.6}),
    ("token_choice", {"text": 3, "image": 2}, {"dropless": False, "capacity_factor": 0.5}),
    ("hash", {"all": 3}, {}),
]


def router_of(kind, experts, options):
    groups = groups_of(experts, ("text", "image"), 8)
    router = KINDS[kind].load()(groups, DIM, router_config(kind=kind, pool=2, **options)).double()
    for p in router.parameters():
        torch.nn.init.normal_(p)
    return router


@pytest.mark.parametrize(("kind", "experts", "options"), CASES)
def test_counts_agree_with_loops(kind, experts, options):
    torch.manual_seed(0)
    batch, router = make_batch(4, (5, 7)), router_of(kind, experts, options)
    x = torch.randn(48, DIM, dtype=torch.float64)
    plan = router(x, batch, None)
    scored = KINDS[kind].scores
    sums = count_routers([(plan, batch), (plan, batch)], router.groups, 2, scored=scored)
    bounds, modality = plan.offsets.tolist(), batch.modality.flatten().tolist()
    took = {(row, e) for e in range(len(bounds) - 1) for row in plan.rows[bounds[e] : bounds[e + 1]].tolist()}
    load = [[sum(modality[row] == m and e == own for row, own in took) for m in range(2)] for e in range(len(bounds) - 1)]
    z = router.logits(x).detach()
    times, dropped, entropy, first, column = [], [], [], 0, 0
    for g in router.groups:
        if g.experts > 1:
            of, lost, h = [[0, 0, 0], [0, 0, 0]], [0, 0], [0.0, 0.0]
            for row, m in enumerate(modality):
                if m in g.modalities:
                    of[m][min(2, sum((row, first + e) in took for e in range(g.experts)))] += 1
                    if plan.scores is not None and plan.scores.chosen is not None:
                        lost[m] += sum(
                            bool(plan.scores.chosen[row, column + e]) and (row, first + e) not in took for e in range(g.experts)
                        )
                    if scored:
                        p = torch.softmax(z[row, column : column + g.experts], 0).tolist()
                        h[m] -= sum(q * math.log(q) for q in p)
            times.append(of), dropped.append(lost), entropy.append(h)
            column += g.experts
        first += g.experts
    for layer in range(2):
        assert sums.load[layer].tolist() == load
        assert sums.times[layer].tolist() == times
        assert sums.dropped[layer].tolist() == dropped
        assert torch.allclose(sums.entropy[layer], torch.tensor(entropy, dtype=torch.float64), atol=1e-12)
    assert not options or sums.dropped.sum() > 0


def test_the_rows_of_a_mixture_of_depths_are_those_that_were_kept():
    batch, depth = make_batch(4, (5, 7)), make_depth(0.5, False, 2)
    router = make_router(groups_of({"text": 2, "image": 2}, ("text", "image"), 8), pool=2)
    x = torch.randn(48, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = depth(x, batch)
    sums = count_routers([(router(x[kept.rows.flatten()], kept, None), kept)], router.groups, 2, scored=True)
    modality = kept.modality.flatten().tolist()
    assert sums.times[0].sum(-1).tolist() == [[modality.count(0), 0], [0, modality.count(1)]]


def test_they_add_up_over_batches_and_ranks():
    router = router_of("token_choice", {"all": 4}, {})
    batches = [make_batch(2, (5, 7), seed=n) for n in range(3)]
    rows = [torch.randn(24, DIM, dtype=torch.float64) for _ in batches]
    one, two, three = (
        count_routers([(router(x, b, None), b)], router.groups, 2, scored=True) for x, b in zip(rows, batches, strict=True)
    )
    together = RouterSums(*summed((one + two).parts(), lambda flat: flat + torch.cat([p.flatten() for p in three.parts()])))
    assert together.load.sum() == 72
    for name in ("load", "times", "dropped", "entropy"):
        parts = [getattr(s, name) for s in (one, two, three)]
        assert torch.allclose(getattr(together, name), sum(parts))


def test_unused_capacity():
    assert unused_capacity(torch.tensor([10.0, 10, 10, 10]), 40, 1.0) == 0
    assert unused_capacity(torch.tensor([40.0, 0, 0, 0]), 40, 1.0) == pytest.approx(0.75)
    assert unused_capacity(torch.tensor([12.0, 8, 15, 5]), 40, 1.0) == pytest.approx((2 + 5) / 40)
    assert unused_capacity(torch.tensor([12.0, 8, 15, 5]), 40, 2.0) == pytest.approx(1 - 40 / 80)
    assert unused_capacity(torch.zeros(4), 0, 1.0) == 0


def test_how_far_apart_modalities_are_routed():
    rng = np.random.default_rng(0)
    load = rng.integers(0, 30, (5, 3))
    pairs = [(e, m) for e in range(5) for m in range(3) for _ in range(load[e, m])]
    n, p_e, p_m, joint = len(pairs), Counter(e for e, _ in pairs), Counter(m for _, m in pairs), Counter(pairs)
    mutual = sum(c / n * math.log(c * n / (p_e[e] * p_m[m])) for (e, m), c in joint.items())
    h = -sum(c / n * math.log(c / n) for c in p_m.values())
    q = load / load.sum(0)
    mean = q.mean(1)
    js = sum(q[e, m] * math.log(q[e, m] / mean[e]) for e in range(5) for m in range(3) if q[e, m]) / 3 / math.log(3)
    assert apart(torch.from_numpy(load)) == pytest.approx((js, mutual / h))
    assert apart(torch.tensor([[4, 0], [4, 0], [0, 9]])) == pytest.approx((1.0, 1.0))
    assert apart(torch.tensor([[4, 8], [2, 4]])) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert apart(torch.tensor([[4, 0], [2, 0]])) is None


def test_variance_that_modality_means_explain():
    rng = np.random.default_rng(1)
    x, modality = rng.normal(size=(40, 6)), rng.integers(0, 2, 40)
    x[modality == 1] += 0.7
    means = [x[modality == m].mean(0) for m in range(2)]
    between = sum(((means[m] - x.mean(0)) ** 2).sum() for m in modality)
    wanted = between / ((x - x.mean(0)) ** 2).sum()
    rows = torch.tensor([float((modality == m).sum()) for m in range(3)], dtype=torch.float64)
    total = torch.tensor(np.stack([x[modality == m].sum(0) for m in range(3)]))
    sums = StateSums(rows, total[None], torch.tensor([(x**2).sum()]))
    assert explained(sums) == pytest.approx([wanted])


def test_similarity_of_experts():
    stacks = [torch.randn(3, 4, 5), torch.randn(3, 2, 6)]
    flat = [torch.cat([s[e].flatten() for s in stacks]) for e in range(3)]
    cosines = [float(flat[a] @ flat[b] / flat[a].norm() / flat[b].norm()) for a in range(3) for b in range(a)]
    assert float(similarity(stacks)) == pytest.approx(sum(cosines) / 3, abs=1e-6)
    copies = torch.randn(1, 4, 5).expand(3, -1, -1)
    assert float(similarity([copies])) == pytest.approx(1.0, abs=1e-6)


def test_shared_experts_tell_nothing_apart():
    assert counting(groups_of({"all": 2, "shared": 2}, ("text", "image"), 8)) == [0, 1]
