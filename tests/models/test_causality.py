"""Who sees the future: no row before the change moves where no router chooses rows, and rows do move where one does.

The leak is certain and no matter of luck. Changed tokens get the number -100 or +100 in a channel that every router weighs
by 1 and that no layer can move by as much: at -100 a router takes rows before the change only, at +100 it takes changed ones
first, so that rows before the change lose a place, whatever the other weights are.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from momafuse.data.batch import Batch
from momafuse.models.transformer import Transformer
from tests.models.loops import distinct_batch
from tests.models.zoo import CAUSAL, ZOO, build

BUDGET, PAST = (10, 10), 14
LOW, HIGH = (136, 137), (138, 139)  # ids for text and image


def loud(name: str, placement: str = "swin", pool: int = 2) -> Transformer:
    """The member, its routers and embedding made as this module says."""
    model, _ = build(name, placement, pool=pool)
    with torch.no_grad():
        model.embedding.weight[:, 0] = 0
        model.embedding.weight[list(LOW), 0] = -100
        model.embedding.weight[list(HIGH), 0] = 100
        for path, p in model.named_parameters():
            if "router" in path:
                p[:, 0] = 1
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
    assert model.routes == (name not in CAUSAL)


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
