"""`optim.train`: only parameters whose path matches a pattern learn, the others keep their values to the last bit."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch

from momafuse.config.compose import compose
from momafuse.errors import UserError
from momafuse.training.optimizer import build_optimizer, freeze
from tests.batches import make_batch
from tests.members import mean_loss, member

SMALL = ("model.dim=8", "model.ffn=12", "router.pool=2")
CASES = [
    ("dense", ["head.weight"]),
    ("dense", ["embedding.weight"]),
    ("dense", ["*norm*"]),
    ("moe_1t1i", ["*.groups.image.*"]),
    ("moma_4t4i", ["*.router.*"]),
    ("moma_4t4i", ["*.groups.text.gate", "*.groups.image.down"]),
    ("moma_4t4i", ["blocks.1.*"]),
    ("mod_moma_4t4i", ["*.depth_router.*"]),
    ("mot", ["*.image", "*.groups.image.*"]),  # a trained text tower stays as it is (LMFusion, arXiv 2412.15188)
    ("mot", ["*.qkv.weight.text"]),
    ("mot_text_moe4", ["*.attention.*"]),
]


@pytest.mark.parametrize(("experiment", "patterns"), CASES, ids=str)
def test_frozen_parameters_stay_while_the_others_move(experiment, patterns):
    model = member(experiment, *SMALL)
    freeze(model, patterns)
    learn = {path for path, _ in model.named_parameters() if any(fnmatchcase(path, pattern) for pattern in patterns)}
    assert 0 < len(learn) < len(list(model.parameters()))
    assert {path for path, p in model.named_parameters() if p.requires_grad} == learn

    config = compose([f"+experiment={experiment}", "size=micro", "data.image_share=0.5", "optim.weight_decay=0.5"]).config.optim
    optimizer = build_optimizer(model, config)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(learn)
    before = {path: p.detach().clone() for path, p in model.named_parameters()}
    for step in range(3):
        mean_loss(model, make_batch(2, (16, 16), seed=step))[0].backward()
        assert {path for path, p in model.named_parameters() if p.grad is not None} <= learn
        optimizer.step()
        optimizer.zero_grad()
    moved = {path for path, p in model.named_parameters() if not torch.equal(p, before[path])}
    assert moved == learn


def test_the_gradients_of_what_learns_are_those_of_the_whole_model():
    batch, gradients = make_batch(2, (16, 16)), []
    for patterns in (["*"], ["*.groups.text.up", "*.router.*", "*.weight.image", "blocks.0.*norm*"]):
        model = member("mot_text_moe4", *SMALL, dtype=torch.float64)
        freeze(model, patterns)
        mean_loss(model, batch)[0].backward()
        gradients.append({path: p.grad for path, p in model.named_parameters() if p.grad is not None})
    whole, part = gradients
    assert 0 < len(part) < len(whole)
    for path, gradient in part.items():
        torch.testing.assert_close(gradient, whole[path], rtol=1e-12, atol=1e-12)


def test_what_was_frozen_can_learn_again():
    model = member("dense", *SMALL)
    freeze(model, ["head.*"])
    freeze(model, ["*"])
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["*.speech.*"], ["optim.train=*.speech.*", "matches no parameter"]),
        (["*", "nothing"], ["optim.train=nothing", "matches no parameter"]),
        (["head.wieght"], ["optim.train=head.wieght", "head.weight"]),
        (["HEAD.weight"], ["optim.train=HEAD.weight"]),  # patterns know upper and lower case on every system
    ],
    ids=str,
)
def test_a_pattern_that_matches_nothing_is_refused_and_freezes_nothing(patterns, words):
    model = member("dense", *SMALL)
    with pytest.raises(UserError) as caught:
        freeze(model, patterns)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
    assert all(p.requires_grad for p in model.parameters())
