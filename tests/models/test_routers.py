"""Models whose rows choose experts against the loop decoder, in float64: every kind of choice on every kind of group."""

from __future__ import annotations

import pytest
import torch

from momafuse.config.schema import DepthConfig
from momafuse.models.transformer import Transformer
from momafuse.routing.auxiliary import taken_by
from tests.models.loops import assert_agrees, distinct_batch
from tests.models.router_kinds import CAPPED, DROPLESS, GROUPS, KINDS, OTHERS, made

NOISY = (*DROPLESS, *CAPPED, "threshold")


ROOM = 3.0  # a capacity factor at which a threshold's bound, which is asked for apart, holds all that experts take


def factor_of(kind: str) -> float:
    return ROOM if kind == "threshold" else 1.0


def logistic(rows: int, experts: int, layers: int = 2) -> torch.Tensor:
    u = torch.rand(layers, rows, experts, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.log(u / (1 - u))


def without_scores(model: Transformer) -> Transformer:
    """All logits equal."""
    with torch.no_grad():
        for path, p in model.named_parameters():
            if "router.weight" in path:
                p.zero_()
    return model


def taken(model: Transformer, batch) -> list[torch.Tensor]:
    """(T, E) bool of each layer."""
    decisions = model(batch, lambda hidden, head: None)[1]
    return [taken_by(d.experts, batch.tokens.numel()) for d in decisions]


@pytest.mark.parametrize("experts", GROUPS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_agrees_with_loops_over_tokens(kind, experts):
    placement = "pre" if len(kind) % 2 else "swin"  # a choice does not know where norms are
    model, spec = made(GROUPS[experts], KINDS[kind], placement=placement, capacity_factor=factor_of(kind))
    batch = distinct_batch(2, (7, 6))
    used = assert_agrees(model, spec, batch)
    assert used == {path for path, _ in model.named_parameters()}
    assert all(t.any() and not t.all() for t in taken(model, batch))


@pytest.mark.parametrize("kind", NOISY)
def test_noise_is_that_of_the_papers(kind):
    """Normal of standard deviation 1 / E where tokens choose, else logistic; the gates have it, too."""
    model, spec = made(GROUPS["beside one"], KINDS[kind], capacity_factor=factor_of(kind))
    batch, noise = distinct_batch(2, (7, 6)), logistic(26, 4)
    assert_agrees(model, spec, batch, noise)
    plain, noisy = (model(batch, lambda hidden, head: hidden, z)[0] for z in (None, noise))
    assert (plain - noisy).abs().max() > 1e-3


@pytest.mark.parametrize("kind", CAPPED)
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 3.0])
def test_a_capacity_drops_what_comes_last(kind, factor):
    """At 3.0 there is room for every row: nothing is dropped, and the function is that without a capacity."""
    model, spec = made(GROUPS["shared"], KINDS[kind], capacity_factor=factor)
    batch = distinct_batch(2, (7, 6))
    assert_agrees(model, spec, batch)
    routed, wanted = sum(int(t[:, :5].sum()) for t in taken(model, batch)), 2 * 26 * KINDS[kind].top_k
    assert (routed == wanted) == (factor == 3.0)


@pytest.mark.parametrize("kind", CAPPED)
@pytest.mark.parametrize("experts", ["modalities", "all"])
def test_a_capacity_may_be_no_row_at_all(kind, experts):
    model, spec = made(GROUPS[experts], KINDS[kind], capacity_factor=0.01)
    batch = distinct_batch(2, (7, 6))
    assert_agrees(model, spec, batch)
    assert not any(t.any() for t in taken(model, batch))


@pytest.mark.parametrize("pool", [1, 2, 4])
@pytest.mark.parametrize("kind", ["in order top 2", "priority top 2"])
def test_a_capacity_is_of_a_pool(kind, pool):
    model, spec = made(GROUPS["modalities"], KINDS[kind], pool=pool, capacity_factor=0.75)
    assert_agrees(model, spec, distinct_batch(4, (7, 6)))


@pytest.mark.parametrize("budget", [(7, 0), (0, 7)], ids=str)
@pytest.mark.parametrize("experts", ["beside one", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_modality_may_be_missing(kind, experts, budget):
    model, spec = made(GROUPS[experts], KINDS[kind], capacity_factor=factor_of(kind))
    assert_agrees(model, spec, distinct_batch(2, budget))


@pytest.mark.parametrize("experts", ["all", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_go_to_the_lower_expert_and_the_lower_row(kind, experts):
    model, spec = made(GROUPS[experts], KINDS[kind], capacity_factor=ROOM if kind == "threshold" else 0.75)
    without_scores(model)
    if kind != "threshold":  # that would let none take a row, or all
        for router in model.routers():
            if router.state is not None:
                router.state.write(torch.zeros(router.n_routed))
    assert_agrees(model, spec, distinct_batch(2, (7, 6)))


def test_a_logit_at_the_threshold_is_not_above_it():
    model, spec = made({"all": 3}, KINDS["threshold"])
    without_scores(model)
    for router in model.routers():
        router.state.write(torch.tensor([0.0, -1e-6, 1e-6]))
    batch = distinct_batch(2, (7, 6))
    assert_agrees(model, spec, batch)
    assert [t.any(0).tolist() for t in taken(model, batch)] == [[False, True, False]] * 2


@pytest.mark.parametrize("experts", [{"text": 2, "image": 1}, {"all": 2}, {"text": 2, "image": 2, "shared": 1}], ids=str)
@pytest.mark.parametrize("kind", [kind for kind, r in KINDS.items() if r.top_k == 2])
def test_a_row_may_go_to_all_experts_of_its_group(kind, experts):
    model, spec = made(experts, KINDS[kind])
    assert_agrees(model, spec, distinct_batch(2, (7, 6)))


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_one_expert_need_no_router(kind):
    model, spec = made({"text": 1, "image": 1}, KINDS[kind])
    assert_agrees(model, spec, distinct_batch(2, (7, 6)))
    assert model.routers() == [None, None]
    assert not model.looks_ahead
    assert not model.leaves_sizes


@pytest.mark.parametrize("per_modality", [True, False], ids=["per_modality", "of_pool"])
@pytest.mark.parametrize("experts", ["modalities", "one beside, shared"])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid top 2 biased normalised", "in order top 2", "priority top 2", *OTHERS])
def test_rows_that_a_layer_keeps_choose_among_themselves(kind, experts, per_modality):
    """Counts of a modality are known to the device only where a pool keeps rows whatever their modality."""
    depth = DepthConfig(every=2, start=0, capacity=0.5, per_modality=per_modality)
    model, spec = made(GROUPS[experts], KINDS[kind], depth=depth, capacity_factor=factor_of(kind))
    assert_agrees(model, spec, distinct_batch(4, (6, 8)))


def test_half_the_width_is_half_the_hidden_numbers():
    from tests.members import member

    half, whole = member("moe_top2"), member("moe_token_choice")
    widths = [m.blocks[0].experts.groups["all"].gate.shape[2] for m in (half, whole)]
    assert widths[0] * 2 == widths[1]


# -- what a threshold's bound drops


def crowded(factor: float = 1.0) -> tuple[Transformer, torch.Tensor]:
    """Every expert wants every row."""
    model, _ = made({"text": 3, "image": 3, "shared": 1}, KINDS["threshold"], capacity_factor=factor)
    for router in model.routers():
        router.state.write(torch.full((6,), -1e9))
    batch = distinct_batch(2, (7, 6))
    return model, batch


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25])
def test_what_exceeds_the_bound_of_a_threshold_is_dropped_last_experts_first(factor):
    """26 rows: 42 places of text's experts, 36 of images', 26 of the shared one; room is for 2 max(1, factor) + 1 a row."""
    model, batch = crowded(factor)
    bound = int(26 * (2 * max(1, factor) + 1))
    every, modality = [], batch.modality.flatten().tolist()
    for e in range(7):
        every += [(r, e) for r in range(26) if e == 6 or modality[r] == e // 3]
    assert len(every) > bound
    for layer in taken(model, batch):
        found = [(r, e) for e in range(7) for r in range(26) if layer[r, e]]
        assert found == every[:bound]


def test_what_a_threshold_drops_still_counts_as_chosen():
    model, batch = crowded()
    decisions = model(batch, lambda hidden, head: None)[1]
    for d in decisions:
        assert d.experts.scores.chosen.sum() == 3 * 26


def test_at_inference_a_threshold_drops_nothing():
    model, batch = crowded()
    decisions = model(batch, lambda hidden, head: None, routing="causal")[1]
    for d in decisions:
        assert taken_by(d.experts, 26).sum() == 4 * 26
