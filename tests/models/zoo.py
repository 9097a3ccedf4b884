"""The members of the zoo: what each of them is, written by hand from the papers, and its model from configs/experiment."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from momafuse.config.compose import compose
from momafuse.config.schema import Config, DepthConfig
from momafuse.models.transformer import Transformer
from tests.models.loops import VOCABULARY, RouterSpec, Spec, shaken

QUARTER = DepthConfig(every=2, start=0, capacity=0.25, per_modality=True)
EVERYTHING = ("qkv", "out", "norms", "ffn")
EXPERIMENTS = {
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
    "moe_token_choice": Spec({"all": 8}, router=RouterSpec("token_choice")),
    "moe_top2": Spec({"all": 8}, router=RouterSpec("token_choice", top_k=2)),
    "moe_loss_free": Spec({"all": 8}, router=RouterSpec("token_choice", score="sigmoid", bias=True)),
    "limoe_router": Spec({"all": 8}, capacity_factor=1.25, router=RouterSpec("token_choice", dropless=False, priority=True)),
    "moma_threshold": Spec({"text": 4, "image": 4}, router=RouterSpec("threshold")),
}
# The paper's mixture of depths chooses among all rows of a pool: `model.depth.per_modality=false`.
OF_POOL = {
    f"{name} of_pool": replace(spec, depth=replace(spec.depth, per_modality=False))
    for name, spec in EXPERIMENTS.items()
    if spec.depth is not None
}
ZOO = EXPERIMENTS | OF_POOL
WITHOUT_ROUTER = ("dense", "moe_1t1i", "mot", "mot_ffn_only")
# What a row meets in training hangs on no later one: no router chooses, or each row does for itself.
CAUSAL = (*WITHOUT_ROUTER, "moe_token_choice", "moe_top2", "moe_loss_free", "moma_threshold")
# Choosing causally takes auxiliary routers.
GUESSED = tuple(name for name in ZOO if name not in (*CAUSAL, "limoe_router"))


@lru_cache
def composed(experiment: str) -> Config:
    words = ["size=micro", "model.dim=8", "model.ffn=12", "router.pool=2", "data.image_share=0.5"]
    return compose([f"+experiment={experiment}", *words]).config


def build(
    name: str, placement: str = "swin", masked: bool = False, pool: int = 2, auxiliary: bool = False
) -> tuple[Transformer, Spec]:
    """The float64 model of a member of `ZOO`, 8 wide, with noise on its weights, and what it should be."""
    experiment, _, of_pool = name.partition(" ")
    config = composed(experiment)
    attention = replace(config.model.attention, document_mask=masked)
    depth = replace(config.model.depth, per_modality=False) if of_pool and config.model.depth else config.model.depth
    shape = replace(config.model, placement=placement, attention=attention, depth=depth)
    router = replace(config.router, pool=pool, auxiliary=auxiliary)
    model = Transformer(shape, router, vocabulary_size=VOCABULARY, modality_names=("text", "image")).double()
    return shaken(model), replace(ZOO[name], placement=placement, masked=masked, pool=pool)
