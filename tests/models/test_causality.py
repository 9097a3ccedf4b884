"""Who sees the future: no row before the change moves where no router chooses rows, and rows do move where one does.

The leak is certain and no matter of luck. Changed tokens get the number -100 or +100 in a channel that every router weighs
by 1 and that no layer can move by as much: at -100 a router takes rows before the change only, at +100 it takes changed ones
first, so that rows before the change lose a place, whatever the other weights are. Where rows choose, only the first expert of
a group weighs the channel: at +100 all changed rows want it. Where it may be full, nothing else is weighed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from momafuse.data.batch import Batch
from momafuse.models.transformer import Transformer
from momafuse.routing.kinds import EXPERT_CHOICE
from tests.models.loops import distinct_batch
from tests.models.router_kinds import CAPPED, GROUPS, ROW_BY_ROW, made
from tests.models.zoo import CAUSAL, WITHOUT_ROUTER, ZOO, build

BUDGET, PAST = (10, 10), 14
LOW, HIGH = (136, 137), (138, 139)  # ids for text and image


def loud(name: str, placement: str = "swin", pool: int = 2) -> Transformer:
    """The member, its routers and embedding made as this module says."""
    return made_loud(build(name, placement, pool=pool)[0])


def made_loud(model: Transformer) -> Transformer:
    rows_choose, capped = model.router.kind != EXPERT_CHOICE, not model.router.dropless
    with torch.no_grad():
        model.embedding.weight[:, 0] = 0
        model.embedding.weight[list(LOW), 0] = -100
        model.embedding.weight[list(HIGH), 0] = 100
        for path, p in model.named_parameters():
            if "depth_router" in path or ("router" in path and not rows_choose):
                p[:, 0] = 1
            elif "router" in path:
                p *= 0 if capped else 1
                p[:, 0] = 0
                p[0, 0] = 1
    return model


def changed(batch: Batch, where: Tensor, ids: tuple[int, int]) -> Batch:
    """Another id of the same modality where `where` (B, S) says so."""
    return replace(batch, tokens=torch.where(where, torch.tensor(ids)[batch.modality.long()], batch.tokens))


def moved(model: Transformer, where: Tensor) -> Tensor:
    """(B, S) how far the last hidden row moves if the tokens at `where` go from LOW to HIGH."""
    batch = distinct_batch(2, BUDGET)
    batch = replace(batch, tokens=batch.tokens % LOW[0])  # the loud ids stand nowhere else
    assert all(int(((batch.modality == m) & where).sum()) > 0 for m in range(2))
    low, high = (model(changed(batch, where, ids), lambda hidden, head: hidden)[0] for ids in (LOW, HIGH))
    return (high - low).abs().amax(1).view(batch.shape)


@pytest.mark.parametrize("placement", ["swin", "pre"])
@pytest.mark.parametrize("name", ZOO)
def test_the_past_moves_exactly_where_routers_choose_rows(name, placement):
    model = loud(name, placement)
    future = torch.zeros(2, sum(BUDGET), dtype=torch.bool)
    future[:, PAST:] = True
    by = moved(model, future)
    assert by[:, PAST:].min() > 1e-3  # every changed row is another one
    if name in CAUSAL:
        assert by[:, :PAST].max() < 1e-12
    else:
        assert by[:, :PAST].max() > 1e-3
    assert model.looks_ahead == (name not in CAUSAL)
    assert model.routes == (name not in WITHOUT_ROUTER)


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("name", ZOO)
def test_another_sequence_matters_only_where_a_router_chooses_from_the_pool(name, pool):
    """The second sequence changes, the first one is looked at. Depth by modality chooses within a sequence."""
    second = torch.zeros(2, sum(BUDGET), dtype=torch.bool)
    second[1] = True
    by = moved(loud(name, pool=pool), second)
    assert by[1].min() > 1e-3
    apart = pool == 1 or name in (*CAUSAL, "mod_dense", "mod_moe_1t1i")
    if apart:
        assert by[0].max() < 1e-12
    else:
        assert by[0].max() > 1e-3


def future() -> Tensor:
    where = torch.zeros(2, sum(BUDGET), dtype=torch.bool)
    where[:, PAST:] = True
    return where


@pytest.mark.parametrize("experts", GROUPS)
@pytest.mark.parametrize("kind", ROW_BY_ROW)
def test_rows_that_choose_for_themselves_do_not_see_the_future_in_training(kind, experts):
    factor = 3.0 if kind == "threshold" else 1.0  # so much that its bound holds all
    model = made_loud(made(GROUPS[experts], ROW_BY_ROW[kind], capacity_factor=factor)[0])
    by = moved(model, future())
    assert by[:, PAST:].min() > 1e-3
    assert by[:, :PAST].max() < 1e-12
    assert not model.looks_ahead


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("experts", ["modalities", "all"])
@pytest.mark.parametrize("kind", CAPPED)
def test_a_capacity_lets_rows_see_the_future_or_others(kind, experts, pool):
    """Of rows that go first choice by first choice as they stand, those of another sequence; else later ones, too."""
    factor = 1.25 if CAPPED[kind].top_k == 2 else 1.0  # so much that some second choices find a place
    model = made_loud(made(GROUPS[experts], CAPPED[kind], pool=pool, capacity_factor=factor)[0])
    by = moved(model, future())
    assert by[:, PAST:].min() > 1e-3
    if kind == "in order" and pool == 1:
        assert by[:, :PAST].max() < 1e-12
    elif kind == "in order":
        assert by[0, :PAST].max() < 1e-12
        assert by[1, :PAST].max() > 1e-3
    else:
        assert by[0, :PAST].max() > 1e-3
    assert model.looks_ahead


@pytest.mark.parametrize("experts", ["modalities", "all"])
@pytest.mark.parametrize("kind", CAPPED)
def test_at_inference_no_capacity_lets_rows_see_the_future(kind, experts):
    model = made_loud(made(GROUPS[experts], CAPPED[kind])[0])
    batch = distinct_batch(2, BUDGET)
    batch = replace(batch, tokens=batch.tokens % LOW[0])
    low, high = (
        model(changed(batch, future(), ids), lambda hidden, head: hidden, routing="causal")[0].view(2, sum(BUDGET), -1)
        for ids in (LOW, HIGH)
    )
    assert (low - high)[:, :PAST].abs().max() < 1e-12
    assert (low - high)[:, PAST:].abs().max() > 1e-3
