"""State of routers: what a step measures and what it makes of the state, against loops; and who sees which state."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from momafuse.data.batch import Batch, begins_of
from momafuse.routing.auxiliary import taken_by
from momafuse.routing.plan import groups_of
from momafuse.routing.routers import Router
from momafuse.routing.threshold import Threshold
from momafuse.routing.token_choice import TokenChoice
from tests.batches import make_batch, router_config

DIM, NAMES = 6, ("text", "image")
GROUPS = [{"text": 3, "image": 2}, {"all": 4}, {"text": 3, "image": 1, "shared": 1}]
BUDGETS = [(7, 5), (0, 6), (2, 1)]


def threshold(experts, pool=2, factor=1.0, decay=0.9) -> Threshold:
    groups = groups_of(experts, NAMES, 8)
    return drawn(Threshold(groups, DIM, router_config(kind="threshold", pool=pool, capacity_factor=factor, decay=decay)))


def biased(experts, rate=0.125, top_k=1) -> TokenChoice:
    groups = groups_of(experts, NAMES, 8)
    return drawn(TokenChoice(groups, DIM, router_config(kind="token_choice", bias_rate=rate, top_k=top_k)))


def drawn(router):
    router = router.double()
    for p in router.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(3))
    return router


def rows_of(batch: Batch, seed: int = 0) -> Tensor:
    return torch.randn(batch.tokens.numel(), DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stretch(batch: Batch, first: int, last: int) -> Batch:
    """Sequences first .. last."""
    cut = {
        name: getattr(batch, name)[first:last] for name in ("tokens", "targets", "modality", "document", "position", "sequence")
    }
    return replace(batch, **cut, begins=begins_of(cut["document"]), order=cut["modality"].flatten().argsort(stable=True))


def logits_of(router: Router, x: Tensor, batch: Batch) -> dict[tuple[str, int], dict[int, float]]:
    """(group, expert) -> row -> logit, of the rows that it serves."""
    modality = batch.modality.flatten().tolist()
    found = {}
    for g in router.routed:
        for e in range(g.experts):
            w = router.weight[g.name][e].tolist()
            mine = [t for t, m in enumerate(modality) if m in g.modalities]
            found[g.name, e] = {t: sum(a * b for a, b in zip(w, x[t].tolist(), strict=True)) for t in mine}
    return found


def loop_cuts(router: Threshold, x: Tensor, batch: Batch) -> list[list[float]]:
    """Of each expert its cut in each pool that has rows for it: halfway between the C-th and the next, or half beyond all."""
    sequences, length = batch.shape
    size = router.pool * length
    result = []
    for (name, _), z in logits_of(router, x, batch).items():
        (experts,) = (g.experts for g in router.routed if g.name == name)
        cuts = []
        for pool in range(sequences // router.pool):
            mine = sorted((v for t, v in z.items() if t // size == pool), reverse=True)
            if not mine:
                continue
            c = min(len(mine), math.floor(len(mine) * Fraction(str(router.capacity_factor)) / experts))
            last = mine[c - 1] if c else mine[0] + 1
            following = mine[c] if c < len(mine) else mine[-1] - 1
            cuts.append((last + following) / 2)
        result.append(cuts)
    return result


@pytest.mark.parametrize("factor", [0.01, 0.5, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("experts", GROUPS, ids=str)
def test_a_threshold_measures_its_cuts_and_follows_their_average(experts, budget, factor):
    """The first step takes them over; an expert without rows keeps what it had, even if that is nothing yet."""
    router = threshold(experts, factor=factor)
    tau = [math.inf] * router.n_routed
    for step in range(3):
        batch = make_batch(6, budget, seed=step)
        x = rows_of(batch, seed=step)
        measured = router(x, batch, None).scores.measured
        cuts = loop_cuts(router, x, batch)
        wanted = [float(sum(c)) for c in cuts] + [float(len(c)) for c in cuts]
        torch.testing.assert_close(measured, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        assert measured.numel() == router.measures
        router.update(measured)
        for e, mine in enumerate(cuts):
            if mine:
                mean = sum(mine) / len(mine)
                tau[e] = mean if math.isinf(tau[e]) else 0.9 * tau[e] + 0.1 * mean
        assert router.state().tolist() == pytest.approx(tau, rel=1e-6)  # the state is rounded to fp32


def test_the_cut_lets_through_as_many_as_expert_choice_takes():
    router = threshold({"text": 3, "image": 2}, pool=4)
    batch = make_batch(4, (9, 6))
    x = rows_of(batch)
    router.update(router(x, batch, None).scores.measured)
    plan = router(x, batch, None)
    assert plan.offsets.diff().tolist() == [12, 12, 12, 12, 12]


@pytest.mark.parametrize("make", [threshold, biased], ids=["threshold", "biased"])
@pytest.mark.parametrize("experts", GROUPS, ids=str)
def test_micro_batches_measure_what_the_whole_batch_does(experts, make):
    one, several = make(experts), make(experts)
    batch = make_batch(8, (7, 5))
    x = rows_of(batch)
    whole = one(x, batch, None).scores.measured
    parts = [several(x[24 * i : 24 * (i + 1)], stretch(batch, 2 * i, 2 * i + 2), None).scores.measured for i in range(4)]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=1e-12)
    one.update(whole)
    several.update(sum(parts))
    torch.testing.assert_close(one.state(), several.state(), rtol=1e-12, atol=1e-12)
    assert not torch.equal(one.state(), make(experts).state())


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("experts", [{"text": 3, "image": 2}, {"all": 4}], ids=str)
def test_a_bias_moves_by_its_rate_towards_an_even_load(experts, top_k):
    router = biased(experts, top_k=top_k)
    bias = [0.0] * router.n_routed
    for step in range(4):
        batch = make_batch(4, (8, 5), seed=step)
        x = rows_of(batch, seed=step)
        loads, e = [], 0
        z = logits_of(router, x, batch)
        for g in router.routed:
            counts = [0] * g.experts
            for t in z[g.name, 0]:
                powers = [math.exp(z[g.name, i][t]) for i in range(g.experts)]
                ranked = [p / sum(powers) + bias[e + i] for i, p in enumerate(powers)]
                for i in sorted(range(g.experts), key=lambda i, r=ranked: (-r[i], i))[:top_k]:
                    counts[i] += 1
            loads += [float(n) for n in counts]
            for i, n in enumerate(counts):
                mean = sum(counts) / g.experts
                bias[e + i] += 0.125 * ((n < mean) - (n > mean))
            e += g.experts
        measured = router(x, batch, None).scores.measured
        assert measured.tolist() == loads
        router.update(measured)
        assert router.state().tolist() == bias  # eighths are exact
    assert any(bias)


def test_no_rows_move_no_bias():
    router = biased({"text": 3, "image": 2})
    batch = make_batch(2, (0, 5))
    router.update(router(rows_of(batch), batch, None).scores.measured)
    assert not router.state.text.any()
    assert router.state.image.any()


def test_token_choice_without_a_bias_has_no_state():
    router = TokenChoice(groups_of({"all": 4}, NAMES, 8), DIM, router_config(kind="token_choice")).double()
    for p in router.parameters():
        torch.nn.init.normal_(p)
    batch = make_batch(2, (3, 4))
    assert router.state is None
    assert router.measures == 0
    assert router(rows_of(batch), batch, None).scores.measured is None
    router.update(torch.zeros(0))


def test_before_its_first_step_a_threshold_takes_no_row():
    router = threshold({"all": 4})
    batch = make_batch(2, (7, 5))
    assert not taken_by(router(rows_of(batch), batch, None), 24).any()


@pytest.mark.parametrize("make", [threshold, biased], ids=["threshold", "biased"])
def test_a_plan_is_of_the_state_before_and_no_later_batch_changes_it(make):
    router = make({"text": 3, "image": 2})
    first, later = make_batch(4, (7, 5)), make_batch(4, (7, 5), seed=1)
    router.update(router(rows_of(first), first, None).scores.measured)
    x = rows_of(first)
    plan = router(x, first, None)
    kept = {name: getattr(plan, name).clone() for name in ("rows", "offsets", "weights", "slots")}
    measured = router(rows_of(later, 1), later, None).scores.measured
    for _ in range(8):  # biases go one way, and as far as scores do
        router.update(measured)
    for name, value in kept.items():
        assert torch.equal(getattr(plan, name), value), name
    again = router(x, first, None)
    assert not torch.equal(taken_by(again, 48), taken_by(plan, 48))  # another state is another plan


@pytest.mark.parametrize("make", [threshold, biased], ids=["threshold", "biased"])
def test_the_experts_of_a_row_are_a_function_of_the_state_and_the_row_alone(make):
    router = make({"text": 3, "image": 2})
    batch = make_batch(4, (7, 5))
    x = rows_of(batch)
    router.update(router(x, batch, None).scores.measured)
    router.pool = 1
    plan = router(x, batch, None)
    taken, modality = taken_by(plan, 48), batch.modality.flatten()
    for t in range(48):
        m = int(modality[t])
        alone = make_batch(1, (1 - m, m), seed=t)
        own = router(x[t : t + 1], alone, None)
        assert taken_by(own, 1)[0].tolist() == taken[t].tolist()
    assert taken.any(1).sum() > 24


def test_state_is_saved_with_the_model_and_starts_over():
    router = threshold({"text": 3, "image": 2})
    assert sorted(router.state_dict()) == ["state.image", "state.text", "weight.image", "weight.text"]
    router.state.write(torch.arange(5.0))
    assert router.state.text.tolist() == [0, 1, 2]
    assert router.state.image.tolist() == [3, 4]
    router.state.reset()
    assert router.state().tolist() == [math.inf] * 5
