"""What can be asked of any member, against the loop decoder: groups, layers, heads, norms, untied parts, depth, pools.

Each case is what one would type, and, written by hand, what it means.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from momafuse.config.schema import DepthConfig
from momafuse.routing.noise import logistic_noise
from tests.batches import make_model
from tests.members import member
from tests.models.loops import VOCABULARY, Spec, assert_agrees, distinct_batch, shaken

ALL, SINGLE, TWO, FOUR = {"all": 1}, {"text": 1, "image": 1}, {"text": 2, "image": 2}, {"text": 4, "image": 4}
SHARED = {"shared": 1}
EVERYTHING = ("qkv", "out", "norms", "ffn")
HALF = DepthConfig(every=2, start=0, capacity=0.5, per_modality=True)
HALF_OF_POOL = DepthConfig(every=2, start=0, capacity=0.5, per_modality=False)
LATE_HALF = DepthConfig(every=2, start=1, capacity=0.5, per_modality=True)
DEPTH = "model.depth={{every:2,start:0,capacity:0.5,per_modality:{}}}"
OF_EACH, OF_POOL = DEPTH.format("true"), DEPTH.format("false")
OWN = "model.attention.qk_norm_per_head=true"
LATE = "model.experts.every=2 model.experts.start=1"

CASES = {
    "moma_2t2i model.experts.shared=2": Spec(TWO | {"shared": 2}),
    "moe_1t1i model.experts.shared=1": Spec(SINGLE | SHARED),
    "dense model.experts.shared=1": Spec(ALL | SHARED),
    "moe_8x model.experts.shared=1": Spec({"all": 8} | SHARED),
    "mot model.experts.shared=1": Spec(SINGLE | SHARED, EVERYTHING),
    f"moma_4t4i model.experts.shared=1 {OF_POOL}": Spec(FOUR | SHARED, depth=HALF_OF_POOL),
    f"moe_1t1i model.experts.shared=1 {OF_POOL}": Spec(SINGLE | SHARED, depth=HALF_OF_POOL),
    "moma_2t2i model.width_share.image=0.3333": Spec(TWO),
    "mot model.width_share.image=0.3333": Spec(SINGLE, EVERYTHING),
    f"moma_2t2i {LATE}": Spec(TWO, expert_layers=(2, 1), layers=3),
    f"moe_1t1i {LATE}": Spec(SINGLE, expert_layers=(2, 1), layers=3),
    "moe_8x model.experts.every=2": Spec({"all": 8}, expert_layers=(2, 0), layers=3),
    f"mot {LATE}": Spec(SINGLE, EVERYTHING, expert_layers=(2, 1)),
    f"mod_moma_4t4i {LATE} model.depth.capacity=0.5": Spec(FOUR, depth=HALF, expert_layers=(2, 1)),
    f"moma_4t4i {OF_POOL} model.experts.every=2": Spec(FOUR, depth=HALF_OF_POOL, expert_layers=(2, 0)),
    "dense model.n_heads=4 model.attention.n_kv_heads=2": Spec(ALL, heads=4),
    "mot model.attention.n_kv_heads=1": Spec(SINGLE, EVERYTHING, kv_heads=1),
    "moe_1t1i model.attention.qk_norm=layer": Spec(SINGLE, qk_norm="layer"),
    "mot model.attention.qk_norm=layer": Spec(SINGLE, EVERYTHING, qk_norm="layer"),
    "mot model.attention.qk_norm=none": Spec(SINGLE, EVERYTHING, qk_norm="none"),
    f"dense {OWN}": Spec(ALL, per_head=True),
    f"moe_1t1i model.attention.qk_norm=layer {OWN}": Spec(SINGLE, qk_norm="layer", per_head=True),
    f"dense model.dim=16 model.n_heads=4 model.attention.n_kv_heads=2 {OWN}": Spec(ALL, heads=4, per_head=True),
    f"mot model.dim=16 model.n_heads=4 model.attention.n_kv_heads=2 {OWN}": Spec(SINGLE, EVERYTHING, heads=4, per_head=True),
    f"mot model.attention.n_kv_heads=1 model.attention.qk_norm=layer {OWN}": Spec(
        SINGLE, EVERYTHING, kv_heads=1, qk_norm="layer", per_head=True
    ),
    f"mot {OF_EACH} {OWN}": Spec(SINGLE, EVERYTHING, HALF, per_head=True),
    f"mot {OF_POOL} model.attention.qk_norm=layer {OWN}": Spec(
        SINGLE, EVERYTHING, HALF_OF_POOL, qk_norm="layer", per_head=True
    ),
    "dense model.untie=[qkv]": Spec(ALL, ("qkv",)),
    "moma_2t2i model.untie=[out]": Spec(TWO, ("out",)),
    "dense model.untie=[norms]": Spec(ALL, ("norms",)),
    "moe_8x model.untie=[qkv,out,norms]": Spec({"all": 8}, ("qkv", "out", "norms")),
    "mot model.experts.all=2": Spec(TWO, EVERYTHING),
    f"mot {OF_EACH}": Spec(SINGLE, EVERYTHING, HALF),
    f"mot {OF_POOL}": Spec(SINGLE, EVERYTHING, HALF_OF_POOL),
    f"mot_text_moe4 {OF_POOL}": Spec({"text": 4, "image": 1}, EVERYTHING, HALF_OF_POOL),
    "mod_moe_1t1i model.depth.start=1 model.depth.capacity=0.5": Spec(SINGLE, depth=LATE_HALF, layers=4),
    "moma_4t4i router.capacity_factor=1.5": Spec(FOUR, capacity_factor=1.5),
    "moma_4t4i router.capacity_factor=4.0": Spec(FOUR, capacity_factor=4.0),
    f"moma_2t2i router.capacity_factor=1.3 {OF_POOL}": Spec(TWO, depth=HALF_OF_POOL, capacity_factor=1.3),
    "moma_2t2i router.pool=1": Spec(TWO, pool=1),
    "moma_2t2i router.pool=4": Spec(TWO, pool=4),
    f"moe_8x router.pool=1 {OF_POOL}": Spec({"all": 8}, depth=HALF_OF_POOL, pool=1),
    f"moe_8x router.pool=4 {OF_POOL}": Spec({"all": 8}, depth=HALF_OF_POOL, pool=4),
}


@pytest.mark.parametrize("command", CASES)
def test_an_option_agrees_with_loops_over_tokens(command):
    spec = CASES[command]
    experiment, *words = command.split()
    shape = ["model.dim=8", "model.ffn=12", f"model.n_layers={spec.layers}", f"router.pool={spec.pool}"]
    model = shaken(member(experiment, *shape, *words, vocabulary=VOCABULARY, dtype=torch.float64))
    assert_agrees(model, replace(spec, masked=True), distinct_batch(4, (9, 8)))


NOISY = {
    "moma_4t4i": Spec(FOUR),
    "mot_text_moe4": Spec({"text": 4, "image": 1}, EVERYTHING),
    "moma_2t2i model.experts.shared=2": Spec(TWO | {"shared": 2}),
    f"moma_2t2i {OF_EACH}": Spec(TWO, depth=HALF),
    f"moma_2t2i {OF_POOL}": Spec(TWO, depth=HALF_OF_POOL),
    f"moe_8x {LATE}": Spec({"all": 8}, expert_layers=(2, 1)),
}


@pytest.mark.parametrize("command", NOISY)
def test_noise_is_added_to_the_logits_of_its_layer_token_and_expert(command):
    spec = NOISY[command]
    experiment, *words = command.split()
    words += ["model.dim=8", "model.ffn=12", "router.pool=2"]
    model = shaken(member(experiment, *words, vocabulary=VOCABULARY, dtype=torch.float64))
    batch = distinct_batch(4, (9, 8))
    noise = logistic_noise(batch, seed=0, step=1, layers=2, experts=model.n_experts)
    assert_agrees(model, replace(spec, masked=True), batch, noise)


TOWER = "image+speech"
THREE = {
    "moma": ({"text": 2, "image": 2, "speech": 1}, Spec({"text": 2, "image": 2, "speech": 1})),
    "mot": ({"all": 1}, Spec({"text": 1, "image": 1, "speech": 1}, EVERYTHING)),
    "mot in depth": ({"all": 1}, Spec({"text": 1, "image": 1, "speech": 1}, EVERYTHING, HALF)),
    "mot in depth of a pool": ({"all": 1}, Spec({"text": 1, "image": 1, "speech": 1}, EVERYTHING, HALF_OF_POOL)),
    "moma in depth": (TWO | {"speech": 3}, Spec(TWO | {"speech": 3}, (), HALF)),
    "mot on two towers": ({"all": 1}, Spec({"text+speech": 1, "image": 1}, EVERYTHING, towers=("text+speech",))),
    "mot on two towers in depth": (
        {"all": 1},
        Spec({"text": 1, TOWER: 1}, EVERYTHING, HALF, towers=(TOWER,)),
    ),
    "experts of two": ({"text+image": 3, "speech": 2}, Spec({"text+image": 3, "speech": 2})),
}


@pytest.mark.parametrize("name", THREE)
def test_three_modalities_are_nothing_special(name):
    experts, spec = THREE[name]
    names = ("text", "image", "speech")
    parts = {"untie": spec.untie, "depth": spec.depth, "towers": [tower.split("+") for tower in spec.towers]}
    model = make_model(experts, modalities=names, dim=8, ffn=12, vocabulary=VOCABULARY, dtype=torch.float64, **parts)
    assert_agrees(shaken(model), replace(spec, modalities=names), distinct_batch(2, (5, 6, 4)))


@pytest.mark.parametrize("depth", [None, HALF], ids=["all rows", "in depth"])
def test_a_tower_equals_untied_parts_of_equal_weights(depth):
    """And its gradient is the sum of theirs."""
    names, parts = ("text", "image", "speech"), {"untie": EVERYTHING, "depth": depth, "dim": 8, "ffn": 12}
    shared = make_model(
        {"all": 1}, modalities=names, vocabulary=VOCABULARY, dtype=torch.float64, towers=[["text", "speech"]], **parts
    )
    apart = make_model({"all": 1}, modalities=names, vocabulary=VOCABULARY, dtype=torch.float64, **parts)
    shaken(shared)
    ours = dict(shared.named_parameters())
    path_of = {path: re.sub(r"(?<=\.)(text|speech)(?=\.|$)", "text+speech", path) for path, _ in apart.named_parameters()}
    with torch.no_grad():
        for path, p in apart.named_parameters():
            p.copy_(ours[path_of[path]])
    outputs = []
    for model in (shared, apart):
        out = model(distinct_batch(2, (5, 6, 4)), lambda hidden, head: hidden @ head.t())[0]
        out.square().sum().backward()
        outputs.append(out)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-12, atol=1e-12)
    summed: dict[str, torch.Tensor] = {}
    for path, p in apart.named_parameters():
        summed[path_of[path]] = summed.get(path_of[path], 0) + p.grad
    for path, p in ours.items():
        torch.testing.assert_close(p.grad, summed[path], rtol=1e-9, atol=1e-9, msg=path)


def test_a_narrow_group_has_its_share_of_the_width():
    model = member("moma_2t2i", "model.ffn=96", "model.width_share.image=0.3333")
    groups = model.blocks[0].experts.groups  # 2/3 of 96 is 64; a third of it, 21, rounded up to eights
    assert groups["text"].gate.shape == (2, 32, 64)
    assert groups["image"].gate.shape == (2, 32, 24)
    assert groups["image"].down.shape == (2, 24, 32)
