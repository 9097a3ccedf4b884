"""What tests of routers have in common: kinds of choice, groups of experts, and a model of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from momafuse.config.schema import DepthConfig
from momafuse.models.transformer import Transformer
from tests.batches import make_model
from tests.models.loops import VOCABULARY, RouterSpec, Spec, shaken

GROUPS = {
    "modalities": {"text": 4, "image": 3},
    "all": {"all": 5},
    "beside one": {"text": 3, "image": 1},
    "shared": {"text": 3, "image": 2, "shared": 2},
    "all shared": {"all": 4, "shared": 1},
    "one beside, shared": {"text": 1, "image": 3, "shared": 1},
}
T = "token_choice"
DROPLESS = {
    "softmax": RouterSpec(T),
    "softmax top 2": RouterSpec(T, top_k=2),
    "softmax top 2 normalised": RouterSpec(T, top_k=2, normalise=True),
    "sigmoid": RouterSpec(T, score="sigmoid"),
    "sigmoid top 2 normalised": RouterSpec(T, top_k=2, score="sigmoid", normalise=True),
    "softmax biased": RouterSpec(T, bias=True),
    "sigmoid top 2 biased normalised": RouterSpec(T, top_k=2, score="sigmoid", normalise=True, bias=True),
}
CAPPED = {
    "in order": RouterSpec(T, dropless=False),
    "in order top 2": RouterSpec(T, top_k=2, dropless=False),
    "priority": RouterSpec(T, dropless=False, priority=True),
    "priority top 2": RouterSpec(T, top_k=2, dropless=False, priority=True),
    "priority top 2 normalised": RouterSpec(T, top_k=2, normalise=True, dropless=False, priority=True),
    "priority sigmoid biased": RouterSpec(T, score="sigmoid", bias=True, dropless=False, priority=True),
}
OTHERS = {"threshold": RouterSpec("threshold"), "hash": RouterSpec("hash"), "uniform": RouterSpec("uniform")}
ROW_BY_ROW = DROPLESS | OTHERS  # a row's experts hang on nothing but itself
KINDS = ROW_BY_ROW | CAPPED


def keys(r: RouterSpec) -> dict[str, Any]:
    """The same as keys of `router`."""
    settings = {key: getattr(r, key) for key in ("kind", "top_k", "score", "normalise", "dropless", "priority")}
    return settings | {"bias_rate": 0.01 if r.bias else 0.0}


def made(
    experts: dict[str, int],
    router: RouterSpec,
    *,
    placement: str = "swin",
    pool: int = 2,
    capacity_factor: float = 1.0,
    depth: DepthConfig | None = None,
    loss: dict[str, Any] | None = None,
) -> tuple[Transformer, Spec]:
    """A float64 model, 8 wide, with noise on its weights and state, and what it should be."""
    routing = keys(router) | ({} if loss is None else {"loss": loss})
    shape = {"placement": placement, "pool": pool, "capacity_factor": capacity_factor, "depth": depth}
    model = shaken(make_model(experts, dim=8, ffn=12, vocabulary=VOCABULARY, routing=routing, **shape).double())
    for r in model.routers():
        if r is not None and router.kind == "threshold":
            r.state.write(r.state() - 1.5)  # more rows are above it; tests see to it that the bound has room
    return model, replace(Spec(experts, router=router), **shape)
