"""Which expert took each row, against a plain loop over places and rows; and that the rows of a document are those of its
decoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from momafuse.generation.experts import Taken, experts_of_rows, taken
from momafuse.generation.passes import pass_of
from momafuse.models.block import Decision
from momafuse.models.experts import layer_groups
from momafuse.models.transformer import Transformer
from momafuse.routing.names import NONE, PASSED
from momafuse.routing.plan import Group, plan_of_choices
from momafuse.tokens.vocabulary import Vocabulary
from tests.models.loops import VOCABULARY
from tests.models.zoo import CAUSAL, WITHOUT_ROUTER, ZOO, build

V = Vocabulary.build(VOCABULARY - 8 - 36, image=(36, 4))
CPU = torch.device("cpu")


def document(length: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def looped(decision: Decision, groups: Sequence[Group], modality: Sequence[int]) -> list[tuple[int, float, int]]:
    """(expert, gate, count) of every row: what stands in the plan, place by place."""
    owners = [g for g in groups for _ in range(g.experts)]
    numbers = list(range(len(modality))) if decision.kept is None else decision.kept.rows.flatten().tolist()
    rows = [(PASSED, 0.0, 0)] * len(modality)
    for local, number in enumerate(numbers):
        found: list[tuple[float, int]] = []
        for e, group in enumerate(owners):
            if decision.experts is None:
                places = [0.0]
            else:
                span = range(int(decision.experts.offsets[e]), int(decision.experts.offsets[e + 1]))
                places = [p for p in span if int(decision.experts.rows[p]) == local]
            rivals = [g for g in groups if g.experts > 1 and modality[number] in g.modalities]
            if not places or group.name == "shared" or (group.experts == 1 and rivals):
                continue
            weights = None if decision.experts is None else decision.experts.weights
            found.append((1.0 if weights is None else float(weights[places[0]]), e))
        best = max(found, key=lambda pair: (pair[0], -pair[1]), default=(0.0, NONE))
        rows[number] = (best[1], best[0], len(found))
    return rows


def agrees(found: Taken, decision: Decision, groups: Sequence[Group], modality: Tensor) -> None:
    expected = looped(decision, groups, modality.flatten().tolist())
    assert found.expert.tolist() == [e for e, _, _ in expected]
    assert np.allclose(found.gate, [gate for _, gate, _ in expected], atol=0, rtol=1e-12)
    assert found.count.tolist() == [count for _, _, count in expected]
    assert len(found.names) == sum(g.experts for g in groups)
    assert found.routed == (decision.kept is not None or any(g.experts > 1 for g in groups))


def decided(model: Transformer, rows: list[list[int]], routing: str) -> tuple[list[Decision], Tensor]:
    batch = pass_of(rows, V, CPU)
    with torch.no_grad():
        return model(batch, lambda hidden, head: None, routing=routing)[1], batch.modality


@pytest.mark.parametrize("placement", ["swin", "pre"])
@pytest.mark.parametrize("name", ZOO)
def test_they_are_those_of_the_plan(name: str, placement: str) -> None:
    model, _ = build(name, placement, auxiliary=name not in CAUSAL)
    for seed, length in enumerate((1, 2, 40)):
        ids = document(length, seed)
        decisions, modality = decided(model, [ids], "training" if name in WITHOUT_ROUTER else "causal")
        found = experts_of_rows(model, V, ids)
        assert len(found) == model.config.n_layers
        for layer, (one, decision) in enumerate(zip(found, decisions, strict=True)):
            agrees(one, decision, layer_groups(model.config, model.modality_names, layer), modality)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in CAUSAL])
def test_of_several_sequences_under_the_routing_of_training(name: str) -> None:
    model, _ = build(name)
    rows = [[*range(8, 16), *range(8 + 36, 52)] for _ in range(2)]
    decisions, modality = decided(model, [rows[0], rows[1][::-1]], "training")
    for layer, decision in enumerate(decisions):
        groups = layer_groups(model.config, model.modality_names, layer)
        agrees(taken(decision, groups, modality), decision, groups, modality)


def test_none_one_several_and_passed_by_all_occur() -> None:
    model, _ = build("mod_moma_4t4i", auxiliary=True)
    found = experts_of_rows(model, V, document(200))
    assert {*np.concatenate([one.expert for one in found]).tolist()} >= {NONE, PASSED, 0, 4}
    assert {*np.concatenate([one.count for one in found]).tolist()} >= {0, 1, 2}


def test_a_row_does_not_hang_on_later_ones() -> None:
    for name in ("moma_4t4i", "mod_moma_4t4i"):
        model, _ = build(name, auxiliary=True)
        ids = document(30)
        for part, whole in zip(experts_of_rows(model, V, ids[:11]), experts_of_rows(model, V, ids), strict=True):
            assert part.expert.tolist() == whole.expert[:11].tolist()


def test_shared_experts_and_groups_of_one_beside_routed_ones_do_not_count() -> None:
    groups = [Group("text", 2, (0,), 4), Group("image", 1, (1,), 4), Group("all", 1, (0, 1), 4), Group("shared", 1, (0, 1), 4)]
    choices = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    gates = torch.tensor([[0.25] * 4, [0.5] * 4, [1.0] * 4, [1.0] * 4, [1.0] * 4])
    modality = torch.tensor([[0, 0, 1, 1]], dtype=torch.uint8)
    found = taken(Decision(plan_of_choices(choices, gates, groups, 14), None), groups, modality)
    assert found.names == ("text 1", "text 2", "image", "all", "shared")
    assert found.expert.tolist() == [1, NONE, 2, 2]
    assert found.gate.tolist() == [0.5, 0.0, 1.0, 1.0]
    assert found.count.tolist() == [2, 0, 2, 2]
