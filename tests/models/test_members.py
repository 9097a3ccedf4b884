"""Every member of the zoo against the loop decoder: logits and the gradient of every parameter, in float64.

The models are built from the YAML files of configs/experiment; what each of them should be is written here from the papers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest

from momafuse.config.compose import compose, group_options
from momafuse.config.schema import Config, DepthConfig
from momafuse.models.transformer import Transformer
from tests.models.loops import VOCABULARY, Spec, assert_agrees, distinct_batch, shaken

QUARTER = DepthConfig(every=2, start=0, capacity=0.25, per_modality=True)
PAPERS_QUARTER = replace(QUARTER, per_modality=False)
EVERYTHING = ("qkv", "out", "norms", "ffn")
ZOO = {
    "dense": Spec({"all": 1}),
    "moe_1t1i": Spec({"text": 1, "image": 1}),
    "moma_2t2i": Spec({"text": 2, "image": 2}),
    "moma_4t4i": Spec({"text": 4, "image": 4}),
    "moma_6t2i": Spec({"text": 6, "image": 2}),
    "moma_7t1i": Spec({"text": 7, "image": 1}),
    "moma_1t7i": Spec({"text": 1, "image": 7}),
    "moma_3t5i": Spec({"text": 3, "image": 5}),
    "moe_8x": Spec({"all": 8}),
    "mod_dense": Spec({"all": 1}, depth=QUARTER),
    "mod_moe_1t1i": Spec({"text": 1, "image": 1}, depth=QUARTER),
    "mod_moma_4t4i": Spec({"text": 4, "image": 4}, depth=QUARTER),
    "mot": Spec({"text": 1, "image": 1}, untie=EVERYTHING),
    "mot_ffn_only": Spec({"text": 1, "image": 1}, untie=("ffn",)),
    "mot_text_moe4": Spec({"text": 4, "image": 1}, untie=EVERYTHING),
}
PAPERS = {f"{name} of a pool": replace(spec, depth=PAPERS_QUARTER) for name, spec in ZOO.items() if spec.depth}


def test_the_table_has_every_experiment():
    assert set(ZOO) == set(group_options()["experiment"])


@lru_cache
def composed(experiment: str) -> Config:
    words = ["size=micro", "model.dim=8", "model.ffn=12", "router.pool=2", "data.image_share=0.5"]
    return compose([f"+experiment={experiment}", *words]).config


@pytest.mark.parametrize("masked", [False, True], ids=["all_before", "own_document"])
@pytest.mark.parametrize("placement", ["swin", "pre"])
@pytest.mark.parametrize("name", [*ZOO, *PAPERS])
def test_a_member_agrees_with_loops_over_tokens(name, placement, masked):
    experiment, _, of_a_pool = name.partition(" ")
    config = composed(experiment)
    attention = replace(config.model.attention, document_mask=masked)
    depth = replace(config.model.depth, per_modality=False) if of_a_pool else config.model.depth
    shape = replace(config.model, placement=placement, attention=attention, depth=depth)
    model = Transformer(shape, config.router, vocabulary_size=VOCABULARY, modality_names=("text", "image")).double()
    assert_agrees(shaken(model), replace((ZOO | PAPERS)[name], placement=placement, masked=masked), distinct_batch(4, (9, 8)))
