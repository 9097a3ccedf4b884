"""What a stage after pretraining takes over from a run: `model_from=RUN` brings architecture, data, tokenizers and seed.

What is learnt and how (optim, trainer, checkpoint, logger) comes from the command line's own files. Reads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from momafuse.config.overrides import Override
from momafuse.errors import UserError
from momafuse.routing.kinds import EXPERT_CHOICE

SECTIONS = ("model", "router", "data", "tokenizer", "objective", "size")
MAY_DIFFER = ("data.path",)  # a corpus may have moved; its fingerprint is compared
UPCYCLING = {"optimizer": "fresh", "weight_noise": 0.0, "redraw": 0.0, "capacity_steps": 0}
ROUTER_LOSS = {"balance": 0.0, "importance": 0.0, "load": 0.0, "z": 0.0, "local_entropy": {}, "global_entropy": {},
               "least_experts": {}, "by_modality": False}  # fmt: skip
ROUTER = {"auxiliary": False, "kind": EXPERT_CHOICE, "top_k": 1, "score": "softmax", "normalise": False, "dropless": True,
          "priority": False, "bias_rate": 0.0, "decay": 0.99, "loss": ROUTER_LOSS, "options": {}}  # fmt: skip
LATER: Mapping[str, Mapping[str, Any]] = {  # keys that older runs lack
    "": {"model_from": None, "upcycle": None, "upcycling": UPCYCLING},
    "data": {"share": {}, "stages": [], "max_rejects": 0.01, "duplicates": "keep"},
    "model": {"towers": []},
    "model.attention": {"qk_norm_per_head": False},
    "router": ROUTER,
    "trainer": {"profile": None, "probe": 0},
}


def with_later_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run with the keys that came after it, at the values that it had without them."""
    filled = dict(raw)
    for section, keys in LATER.items():
        filled = _with_keys(filled, [name for name in section.split(".") if name], keys)
    return filled


def _with_keys(raw: Mapping[str, Any], section: Sequence[str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with these keys of a section within it where it lacks them; a section that is not there stays away."""
    if not section:
        return {**keys, **raw}
    first, *inner = section
    there = raw.get(first)
    return {**raw, first: _with_keys(there, inner, keys)} if isinstance(there, Mapping) else dict(raw)


def config_file(run: str, key: str = "model_from") -> Path:
    """The config.yaml of a run folder or of one of its checkpoints. Raises UserError where there is none."""
    file = Path(run).expanduser() / "config.yaml"
    if not file.is_file():
        raise UserError(f"{key}={run}: no run there (config.yaml is missing); give a run folder or one of its checkpoints")
    return file


def inherit(raw: Mapping[str, Any], source: Mapping[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """`raw` with the sections of the run `source`. Raises UserError for an override that contradicts them."""
    for o in overrides:
        section = o.key.partition(".")[0]
        if (section in SECTIONS or o.key == "run.seed") and o.key not in MAY_DIFFER:
            raise UserError(f"{o}: model_from={raw['model_from']} brings {section} with it; leave {o.key} out")
    own = {o.key for o in overrides}
    merged = dict(raw) | {name: source[name] for name in SECTIONS if name in source}
    merged["router"] = {**source["router"], "auxiliary": raw["router"]["auxiliary"], "noise": False}
    if "data.path" in own:
        merged["data"] = {**source["data"], "path": raw["data"]["path"]}
    merged["run"] = {**raw["run"], "seed": source["run"]["seed"]}
    return merged
