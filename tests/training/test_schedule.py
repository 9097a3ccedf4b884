from __future__ import annotations

import math

import pytest

from momafuse.config.compose import compose
from momafuse.errors import UserError
from momafuse.training.optimizer import build_optimizer, decays
from momafuse.training.schedule import learning_rate, stage_begins
from tests.batches import make_model


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_warm_up_peak_and_end(shape):
    rate = [learning_rate(s, peak=1.0, end=0.1, warmup=4, total=10, shape=shape) for s in range(1, 13)]
    assert rate[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rate[9:] == pytest.approx([0.1, 0.1, 0.1])
    middle = 0.55
    assert rate[6] == pytest.approx(middle)
    expected = 1 - 0.9 / 6 if shape == "linear" else 0.1 + 0.45 * (1 + math.cos(math.pi / 6))
    assert rate[4] == pytest.approx(expected)


def test_without_warm_up_the_first_step_starts_to_fall():
    assert learning_rate(1, peak=1.0, end=0.0, warmup=0, total=4, shape="linear") == 0.75


def begins(shares, *words):
    stages = ", ".join(f"{{from: {share}, weights: {{starter_glosses: 2}}}}" for share in shares)
    more = ("trainer.max_steps=10", "trainer.global_batch=16", "optim.warmup_steps=2")
    return stage_begins(compose([f"data.stages=[{stages}]", *more, *words]).config)


def test_stages_begin_with_a_step_of_the_planned_length():
    assert begins([]) == []
    assert begins([0.25, 0.8]) == [2 * 16, 8 * 16]
    assert begins([0.5], "trainer.max_tokens=16384") == [2 * 16]  # four steps of 16 x 256 tokens
    assert begins([0.5], "optim.schedule_steps=40") == [20 * 16]  # the run is planned longer than it is to go on at first


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.04], r"^data\.stages\[0\]\.from=0\.04: no step of 10 is left to the weights that the run begins with; take"),
        ([0.5, 0.52], r"^data\.stages\[1\]\.from=0\.52: no step of 10 is left to the stage before it; take the stage out, or"),
        ([0.5, 0.97], r"^data\.stages\[1\]\.from=0\.97: no step of 10 is left to it; take the stage out, or set more steps$"),
    ],
)
def test_a_stage_without_a_step_is_refused(shares, message):
    with pytest.raises(UserError, match=message):
        begins(shares)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("embedding.weight", False),
        ("head.weight", False),
        ("norm.weight", False),
        ("blocks.0.attention.q_norm.weight", False),
        ("blocks.0.experts.router.weight.text", False),
        ("blocks.0.attention.qkv.weight", True),
        ("blocks.3.experts.groups.image.down", True),
    ],
)
def test_which_parameters_decay(path, expected):
    assert decays(path) is expected


def test_norms_of_heads_do_not_decay():
    """They are matrices, and no projections."""
    model = make_model({"all": 1}, qk_norm="layer", qk_norm_per_head=True, untie=("norms",))
    optimizer = build_optimizer(model, compose([]).config.optim)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed
    for path, p in model.named_parameters():
        assert (id(p) in decayed) == ("norm" not in path and path not in ("embedding.weight", "head.weight")), path
