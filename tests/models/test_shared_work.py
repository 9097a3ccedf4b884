"""What is computed once: the by-modality order with the batch, the by-modality plan once a forward, a choice once a layer."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from momafuse.config.schema import DepthConfig
from momafuse.models import context
from momafuse.routing import expert_choice, plan
from tests.batches import make_batch, make_model
from tests.models.zoo import EVERYTHING

LAYERS = 4
SINGLE, FOUR = {"text": 1, "image": 1}, {"text": 4, "image": 4}
HALF = DepthConfig(every=2, start=0, capacity=0.5, per_modality=True)


class Operators(TorchDispatchMode):
    """Counts operators by name, e.g. `aten::sort`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.name().split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a plan was made from the by-modality order (`fixed`), and how often by a router (`routed`)."""
    made: Counter[str] = Counter()

    def counted(name, function):
        def call(*args):
            result = function(*args)
            made[name] += result is not None
            return result

        return call

    monkeypatch.setattr(context, "fixed_plan", counted("fixed", plan.fixed_plan))
    monkeypatch.setattr(plan, "make_plan", counted("made by fixed_plan", plan.make_plan))
    monkeypatch.setattr(expert_choice, "make_plan", counted("routed", expert_choice.make_plan))
    return made


def forward(experts: dict[str, int], **more) -> Counter[str]:
    """The operators of one forward and backward of a model of LAYERS layers."""
    model, batch = make_model(experts, layers=LAYERS, **more), make_batch(2, (8, 8))
    with Operators() as operators:
        model(batch, lambda hidden, head: hidden.sum())[0].backward()
    return operators.calls


SORTS = ("aten::sort", "aten::argsort", "aten::topk", "momafuse::top_rows")


@pytest.mark.parametrize(
    ("experts", "untie"),
    [(SINGLE, ()), (SINGLE | {"shared": 1}, ()), ({"all": 1}, EVERYTHING), ({"all": 1}, ("qkv", "norms"))],
    ids=["moe_1t1i", "shared", "mot", "attention_only"],
)
def test_one_plan_by_modality_serves_all_layers_and_nothing_is_sorted(plans, experts, untie):
    calls = forward(experts, untie=untie)
    assert plans == {"fixed": 1, "made by fixed_plan": 1}
    assert not any(calls[name] for name in SORTS)


def test_dense_makes_no_plan(plans):
    calls = forward({"all": 1})
    assert not plans.total()
    assert not any(calls[name] for name in SORTS)


def test_untied_norms_alone_need_no_plan(plans):
    forward({"all": 1}, untie=("norms",))
    assert not plans.total()


@pytest.mark.parametrize("untie", [(), EVERYTHING], ids=["moma_4t4i", "with mot"])
def test_a_routed_layer_chooses_once_for_all_its_experts(plans, untie):
    calls = forward(FOUR, untie=untie)
    assert plans["routed"] == LAYERS
    assert plans["fixed"] == bool(untie)
    assert calls["momafuse::top_rows"] == LAYERS


def test_only_layers_with_depth_make_a_plan_of_their_own(plans):
    """Two of four layers keep rows, whose plan is theirs; the other two share the one of the batch."""
    forward(SINGLE, depth=HALF)
    assert plans["fixed"] == 1 + 2


def test_the_order_by_modality_is_that_of_the_batch():
    """A batch whose order is wrong gives another result: nothing makes the order anew."""
    model, batch = make_model(SINGLE), make_batch(2, (8, 8))
    right = model(batch, lambda hidden, head: hidden)[0]
    batch.order.copy_(batch.order.flip(0))
    assert not torch.allclose(model(batch, lambda hidden, head: hidden)[0], right)
