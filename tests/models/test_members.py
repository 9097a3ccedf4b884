"""Every member of the zoo against the loop decoder: logits and the gradient of every parameter, in float64."""

from __future__ import annotations

import pytest

from momafuse.config.compose import members
from tests.models.loops import assert_agrees, distinct_batch
from tests.models.zoo import EXPERIMENTS, ZOO, build


def test_the_table_has_every_experiment():
    assert set(EXPERIMENTS) == set(members())


@pytest.mark.parametrize("masked", [False, True], ids=["all_before", "own_document"])
@pytest.mark.parametrize("placement", ["swin", "pre"])
@pytest.mark.parametrize("name", ZOO)
def test_a_member_agrees_with_loops_over_tokens(name, placement, masked):
    model, spec = build(name, placement, masked)
    used = assert_agrees(model, spec, distinct_batch(4, (9, 8)))
    assert used == {path for path, _ in model.named_parameters()}


@pytest.mark.parametrize("budget", [(8, 0), (0, 8), (3, 8), (8, 3)], ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_a_modality_may_be_missing_or_pass_every_expert_by(name, budget):
    """At (3, 8) a mixture of depths keeps a quarter of three tokens, which is none."""
    model, spec = build(name)
    assert_agrees(model, spec, distinct_batch(2, budget))


@pytest.mark.parametrize("budget", [(1, 0), (0, 1)], ids=["text", "image"])
@pytest.mark.parametrize("name", ZOO)
def test_one_token_is_a_batch(name, budget):
    model, spec = build(name, pool=1)
    assert_agrees(model, spec, distinct_batch(1, budget))


@pytest.mark.parametrize("budget", [(8, 0), (0, 8)], ids=["text", "image"])
@pytest.mark.parametrize("name", ZOO)
def test_parameters_of_a_missing_modality_have_a_gradient_of_zero(name, budget):
    """None would be another thing on each rank. With depth, too: a modality that is missing is no layer that is missing."""
    model, _ = build(name)
    model(distinct_batch(2, budget), lambda hidden, head: (hidden @ head.t()).square().sum())[0].backward()
    for path, p in model.named_parameters():
        assert p.grad is not None, path
        assert p.grad.isfinite().all(), path
