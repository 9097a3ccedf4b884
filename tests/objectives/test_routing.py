"""The losses of routers against loops over single rows, values and gradients to logits, in float64; and parts of a batch."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from momafuse.objectives.routing import RouterLosses
from momafuse.routing.config import RouterLossConfig
from momafuse.routing.plan import Plan, Scores, groups_of, plan_of_choices, served
from tests.batches import make_batch, router_config

NAMES = ("text", "image")
GROUPS = [
    {"all": 4},
    {"text": 3, "image": 2},
    {"text": 3, "image": 1},
    {"text": 2, "image": 3, "shared": 1},
    {"all": 3, "shared": 2},
]
BUDGETS = [(5, 6), (0, 6), (5, 0), (1, 1)]
TINY = 1e-10  # keeps what is divided by, and the logarithm, above 0
LAYERS = 2


def config(**changes) -> RouterLossConfig:
    return router_config(loss=changes).loss


EVERYTHING = {
    "balance": 0.7,
    "importance": 0.5,
    "load": 0.3,
    "z": 0.2,
    "local_entropy": {"text": 0.4, "image": 0.6},
    "global_entropy": {"text": 0.9, "image": 0.8},
    "least_experts": {"text": 2.0, "image": 1.5},
}


class Case:
    """Logits of some layers, what was chosen and the cut of noise, as a router would leave them."""

    def __init__(self, experts, budget, *, by_modality=False, sequences=2, seed=0, scale=1.0, **losses):
        self.groups = groups_of(experts, NAMES, 8)
        self.batch = make_batch(sequences, budget, seed=seed)
        self.losses = RouterLosses(config(**{**EVERYTHING, "by_modality": by_modality, **losses}), self.groups, NAMES)
        generator = torch.Generator().manual_seed(seed)
        routed = [g for g in self.groups if g.experts > 1]
        n, t = sum(g.experts for g in routed), self.batch.tokens.numel()
        mine = served(routed, self.batch).t()
        self.layers, self.chosen, self.cuts = [], [], []
        for _ in range(LAYERS):
            z = (scale * torch.randn(t, n, generator=generator, dtype=torch.float64)).requires_grad_()
            self.layers.append(z)
            self.chosen.append((torch.rand(t, n, generator=generator) < 0.5) & mine)
            self.cuts.append(torch.randn(t, generator=generator, dtype=torch.float64).requires_grad_())

    def plans(self, part: slice | None = None):
        batch, rows = self.batch, slice(None)
        if part is not None:
            length = batch.shape[1]
            rows = slice(part.start * length, part.stop * length)
            batch = replace(batch, tokens=batch.tokens[part], modality=batch.modality[part])
        empty = Plan(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), None, torch.zeros(0, 0), None)
        return [
            (replace(empty, scores=Scores(z[rows], chosen[rows], cut[rows], None)), batch)
            for z, chosen, cut in zip(self.layers, self.chosen, self.cuts, strict=True)
        ]

    def total(self) -> Tensor:
        return self.losses.total(self.losses.values(self.losses.sums(self.plans())))


def phi(x: Tensor) -> Tensor:
    return (1 + torch.erf(x / math.sqrt(2))) / 2


def mean(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values) if values else torch.zeros((), dtype=torch.float64)


def variation(x: list[Tensor]) -> Tensor:
    middle = sum(x) / len(x)
    return sum((v - middle) ** 2 for v in x) / len(x) / (middle**2 + TINY)


def loop_losses(case: Case) -> dict[str, Tensor]:
    """Every loss by its equation, over single rows."""
    modality = case.batch.modality.flatten().tolist()
    found: dict[str, list[Tensor]] = {name: [] for name in ("balance", "importance", "load", "z")}
    found |= {f"{kind}_entropy_{m}": [] for kind in ("local", "global") for m in NAMES}
    for z, chosen, cut in zip(case.layers, case.chosen, case.cuts, strict=True):
        first = 0
        for g in case.groups:
            if g.experts == 1:
                continue
            columns = range(first, first + g.experts)
            first += g.experts
            rows = [t for t, m in enumerate(modality) if m in g.modalities]
            p = {}
            for t in rows:
                powers = [torch.exp(z[t, e]) for e in columns]
                p[t] = [x / sum(powers) for x in powers]
            cells = [[t for t in rows if modality[t] == m] for m in g.modalities] if case.losses.config.by_modality else [rows]
            for cell in (c for c in cells if c):
                choices = [sum(bool(chosen[t, e]) for t in cell) for e in columns]
                share = [n / max(1, sum(choices)) for n in choices]
                importance = [mean([p[t][i] for t in cell]) for i in range(g.experts)]
                found["balance"].append(g.experts * sum(f * q for f, q in zip(share, importance, strict=True)))
                found["importance"].append(variation(importance))
                found["load"].append(variation([mean([phi((z[t, e] - cut[t]) * g.experts) for t in cell]) for e in columns]))
            if rows:
                found["z"].append(mean([torch.log(sum(torch.exp(z[t, e]) for e in columns)) ** 2 for t in rows]))
            for m in g.modalities:
                mine = [t for t in rows if modality[t] == m]
                if not mine:
                    continue
                found[f"local_entropy_{NAMES[m]}"].append(mean([-sum(x * torch.log(x) for x in p[t]) for t in mine]))
                middle = [mean([p[t][i] for t in mine]) for i in range(g.experts)]
                entropy = -sum(x * torch.log(x) for x in middle)
                least = math.log(case.losses.config.least_experts.get(NAMES[m], 1.0))
                found[f"global_entropy_{NAMES[m]}"].append((least - entropy).clamp(min=0))
    return {name: mean(values) for name, values in found.items()}


def leaves(case: Case) -> list[Tensor]:
    return [*case.layers, *case.cuts]


def gradient(value: Tensor, case: Case) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves(case)]
    return list(torch.autograd.grad(value, leaves(case), materialize_grads=True, allow_unused=True, retain_graph=True))


def assert_close(a: Tensor, b: Tensor, what: str = "") -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("by_modality", [False, True], ids=["together", "by_modality"])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("experts", GROUPS, ids=str)
def test_every_loss_agrees_with_loops_over_rows(experts, budget, by_modality):
    """A loss of which no group has rows is 0, and so is its gradient: `mean` of nothing."""
    case = Case(experts, budget, by_modality=by_modality)
    values, expected = case.losses.values(case.losses.sums(case.plans())), loop_losses(case)
    for name, wanted in expected.items():
        if name not in values:  # a modality that only groups of one serve
            assert not wanted.requires_grad
            continue
        assert_close(values[name], wanted, name)
        for mine, theirs in zip(gradient(values[name], case), gradient(wanted, case), strict=True):
            assert_close(mine, theirs, name)


@pytest.mark.parametrize("experts", GROUPS, ids=str)
def test_the_total_is_the_weighted_sum(experts):
    case = Case(experts, (5, 6))
    found = loop_losses(case)
    weights = {name: EVERYTHING[name] for name in ("balance", "importance", "load", "z")}
    weights |= {f"{kind}_{m}": EVERYTHING[kind][m] for kind in ("local_entropy", "global_entropy") for m in NAMES}
    wanted = sum(w * found[name] for name, w in weights.items())
    assert_close(case.total(), wanted)
    for mine, theirs in zip(gradient(case.total(), case), gradient(wanted, case), strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize("by_modality", [False, True])
@pytest.mark.parametrize("name", ["balance", "importance", "load", "z"])
def test_each_weight_is_that_of_its_loss(name, by_modality):
    off = dict.fromkeys(("balance", "importance", "load", "z"), 0.0) | {"local_entropy": {}, "global_entropy": {}}
    case = Case({"text": 3, "image": 2}, (5, 6), by_modality=by_modality, **{**off, name: 0.3})
    if name != "load":
        assert "load" not in case.losses.values(case.losses.sums(case.plans()))
    assert_close(case.total(), 0.3 * loop_losses(case)[name])


def test_an_even_load_has_the_balance_1_and_no_variation():
    case = Case({"all": 4}, (4, 4), scale=0.0)
    for chosen in case.chosen:
        chosen.copy_(torch.eye(4, dtype=torch.bool).repeat(4, 1))
    values = case.losses.values(case.losses.sums(case.plans()))
    assert values["balance"].item() == pytest.approx(1, abs=1e-12)
    assert values["importance"].item() == pytest.approx(0, abs=1e-12)
    assert values["local_entropy_text"].item() == pytest.approx(math.log(4), abs=1e-12)


def test_a_collapse_costs_as_many_as_there_are_experts():
    case = Case({"all": 4}, (4, 4))
    for z, chosen in zip(case.layers, case.chosen, strict=True):
        z.data.copy_(torch.tensor([80.0, 0, 0, 0]).expand_as(z))
        chosen.copy_(torch.tensor([True, False, False, False]).expand_as(chosen))
    values = case.losses.values(case.losses.sums(case.plans()))
    assert values["balance"].item() == pytest.approx(4, abs=1e-9)
    assert values["importance"].item() == pytest.approx(3, abs=1e-8)
    assert values["z"].item() == pytest.approx(6400, abs=1e-6)
    assert values["global_entropy_text"].item() == pytest.approx(math.log(2), abs=1e-8)
    assert values["global_entropy_image"].item() == pytest.approx(math.log(1.5), abs=1e-8)


def test_enough_experts_cost_nothing():
    case = Case({"all": 4}, (4, 4), scale=0.0)
    values = case.losses.values(case.losses.sums(case.plans()))
    assert float(values["global_entropy_text"].detach()) == 0
    assert not any(g.any() for g in gradient(values["global_entropy_text"], case))


@pytest.mark.parametrize("by_modality", [False, True])
@pytest.mark.parametrize("budget", [(0, 6), (5, 0)], ids=str)
@pytest.mark.parametrize("experts", GROUPS, ids=str)
def test_what_has_no_rows_has_neither_value_nor_gradient(experts, budget, by_modality):
    """No 0 / 0 anywhere; and extreme logits of others are no matter."""
    case = Case(experts, budget, by_modality=by_modality, scale=200.0)
    total = case.total()
    assert total.isfinite()
    assert all(g.isfinite().all() for g in gradient(total, case))
    missing = 0 if budget[0] == 0 else 1
    first = 0
    for g in case.losses.groups:
        if g.modalities == (missing,):
            for z in gradient(total, case)[:LAYERS]:
                assert not z[:, first : first + g.experts].any()
        first += g.experts


def test_nothing_chosen_is_no_division_by_nothing():
    """A threshold's first step."""
    case = Case({"all": 4}, (4, 4))
    for chosen in case.chosen:
        chosen.zero_()
    values = case.losses.values(case.losses.sums(case.plans()))
    assert float(values["balance"].detach()) == 0
    assert case.total().isfinite()


@pytest.mark.parametrize("by_modality", [False, True])
@pytest.mark.parametrize("experts", GROUPS, ids=str)
def test_gradients_of_parts_add_up_to_that_of_the_whole(experts, by_modality):
    """Each part is given the sums of all; parts are of unequal size."""
    case = Case(experts, (3, 4), by_modality=by_modality, sequences=4)
    wanted = gradient(case.total(), case)
    whole = case.losses.sums(case.plans()).flat().detach()
    added = [torch.zeros_like(leaf) for leaf in leaves(case)]
    for part in (slice(0, 1), slice(1, 3), slice(3, 4)):
        scalar = case.losses.of_part(case.losses.sums(case.plans(part)), whole)
        assert_close(scalar.detach(), case.total().detach())
        for total, mine in zip(added, gradient(scalar, case), strict=True):
            total += mine
    for mine, theirs in zip(added, wanted, strict=True):
        assert_close(mine, theirs)


def test_a_part_alone_does_not_have_the_gradient_of_the_whole():
    """The test above could fail: parts that know only themselves give other gradients."""
    case = Case({"all": 4}, (3, 4), sequences=4)
    wanted = gradient(case.total(), case)[0]
    added = torch.zeros_like(wanted)
    for part in (slice(0, 1), slice(1, 3), slice(3, 4)):
        sums = case.losses.sums(case.plans(part))
        added += gradient(case.losses.of_part(sums, sums.flat().detach()), case)[0]
    assert (added - wanted).abs().max() > 1e-3


def test_sums_add_up_over_parts_and_come_back_from_one_tensor():
    case = Case({"text": 3, "image": 2, "shared": 1}, (3, 4), sequences=4)
    whole = case.losses.sums(case.plans())
    parts = [case.losses.sums(case.plans(s)).flat() for s in (slice(0, 1), slice(1, 3), slice(3, 4))]
    assert_close(sum(parts), whole.flat())
    again = case.losses.unflattened(whole.flat())
    for name in ("probability", "choices", "likely", "rows", "z", "entropy"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name


def test_choices_of_a_plan_count_where_no_router_says_what_it_chose():
    """Expert choice: what the plan has is what was chosen; groups of one are no choice."""
    case = Case({"text": 3, "image": 1, "shared": 1}, (3, 4))
    every = served(case.groups, case.batch)
    taken = every.clone()
    taken[:3] = case.chosen[0].t()
    plan = plan_of_choices(taken, None, case.groups, int(taken.sum()) + 3)
    plan = replace(plan, scores=Scores(case.layers[0], None, None, None))
    sums = case.losses.sums([(plan, case.batch)])
    modality = case.batch.modality.flatten().tolist()
    expected = [
        [[float(sum(bool(case.chosen[0][t, e]) for t in range(14) if modality[t] == m)) for e in range(3)] for m in (0, 1)]
    ]
    assert sums.choices.tolist() == expected


def test_loads_are_shares_of_an_even_one():
    case = Case({"text": 3, "image": 2}, (5, 6))
    loads = case.losses.loads(case.losses.sums(case.plans()))
    for layer in range(LAYERS):
        for first, experts in ((0, 3), (3, 2)):
            counts = [int(case.chosen[layer][:, e].sum()) for e in range(first, first + experts)]
            expected = [n * experts / sum(counts) for n in counts]
            assert loads[layer, first : first + experts].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_chance_is_that_of_noise_of_one_over_the_experts():
    """Phi itself, against another source of it."""
    case = Case({"all": 4}, (1, 1), sequences=1)
    sums = case.losses.sums(case.plans())
    normal = NormalDist()
    for layer in range(LAYERS):
        z, cut = case.layers[layer].tolist(), case.cuts[layer].tolist()
        for e in range(4):
            wanted = sum(normal.cdf((z[t][e] - cut[t]) * 4) for t in range(2))
            assert float(sums.likely[layer, :, e].sum()) == pytest.approx(wanted, abs=1e-12)
