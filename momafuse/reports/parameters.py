"""Parameters of a model, in all and active per token, by part; counted on the model's own tensors, which may be fake.

A weight is active for a token that is multiplied by it: not where a layer passes the token by, an expert does not take it, or
the weight is another modality's. *Active* is the average over the tokens of the modality budget. The embedding counts as one
table, as the papers count it, so that a dense model's active parameters are all of its parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from momafuse.models.transformer import Transformer
from momafuse.reports.flops import EXPERTS, FFN_BETWEEN
from momafuse.reports.work import LayerWork, Work
from momafuse.routing.plan import Group


@dataclass(frozen=True)
class Share:
    total: int
    active: float


def count_parameters(model: Transformer, work: Work) -> dict[str, Share]:
    """Part -> parameters; the parts are those of flops.py, and `embedding` and `norms`."""
    parts: dict[str, Share] = {}
    for path, p in model.named_parameters():
        part, share = _place(path, model.modality_names, work)
        before = parts.get(part, Share(0, 0.0))
        parts[part] = Share(before.total + p.numel(), before.active + p.numel() * share)
    return parts


def _place(path: str, modality_names: tuple[str, ...], work: Work) -> tuple[str, float]:
    """The part that a parameter belongs to, and the share of tokens that it is active for."""
    first, *names = path.split(".")
    if first != "blocks":
        return {"norm": "norms"}.get(first, first), 1.0
    layer, inner, last = work.layers[int(names[0])], names[1], names[-1]
    if inner == "depth_router":
        return "depth_router", 1.0
    if inner == "experts" and names[2] == "groups":
        group, places = _group(layer, names[3])
        return EXPERTS + group.name if layer.experts else FFN_BETWEEN, places / work.rows
    if inner == "experts":
        served = _group(layer, last)[0].modalities
        return "router", sum(layer.rows[m] for m in served) / work.rows
    tower = last.split("+")
    rows = sum(layer.rows[modality_names.index(m)] for m in tower) if tower[0] in modality_names else sum(layer.rows)
    return "norms" if "norm" in path else "attention_projections", rows / work.rows


def _group(layer: LayerWork, name: str) -> tuple[Group, float]:
    return next((g, places) for g, places in zip(layer.groups, layer.places, strict=True) if g.name == name)
