"""What `describe` says of a model, as plain nested values: what its JSON holds and what its table is made from.

Counts are those of work.py, parameters.py, flops.py and memory.py; nothing is counted here. Bytes, FLOPs a token, parameters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from momafuse.config.schema import Config, ModelConfig
from momafuse.models.transformer import Transformer
from momafuse.reports.flops import TRAINING, forward_flops, recomputed_flops
from momafuse.reports.memory import Memory
from momafuse.reports.parameters import count_parameters
from momafuse.reports.work import LayerWork, Work, model_work
from momafuse.routing.config import RouterConfig

Values = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is described: a config, the model that it builds (fake or real), and what was measured on it."""

    config: Config
    size: str
    model: Transformer
    budget: tuple[int, ...]
    memory: Memory
    device: str
    precision: str
    dense: Config | None  # what FLOPs are compared with; None: it does not compose
    dense_size: str
    in_place: str  # what there is to say of the micro-batch (config/shares.py), or nothing


def describe(s: Subject) -> Values:
    m, t, names = s.config.model, s.config.trainer, s.model.modality_names
    work = model_work(m, s.config.router, names, s.budget)
    heads = {"heads": m.n_heads, "kv_heads": m.attention.n_kv_heads or m.n_heads, "head_dim": m.dim // m.n_heads}
    attention = heads | {name: getattr(m.attention, name) for name in ("qk_norm", "qk_norm_per_head", "document_mask")}
    return {
        "name": m.name,
        "size": s.size,
        "model": {
            "layers": m.n_layers,
            "dim": m.dim,
            "vocabulary": s.model.embedding.num_embeddings,
            "placement": m.placement,
            "untied": list(m.untie),
            "towers": list(dict.fromkeys(m.tower_names(names))),
            "attention": attention,
        },
        "layers": _layers(work, names),
        "batch": {
            "sequences": t.micro_batch,
            "in_place": s.in_place,
            "sequence_length": sum(s.budget),
            "budget": dict(zip(names, s.budget, strict=True)),
            "pool": work.pool,
        },
        "parameters": _parameters(s.model, work),
        "flops_per_token": _flops(s, work),
        "memory": _memory(s),
        "causal_training": not s.model.looks_ahead,
        "chosen_among_sequences": _choosers(m, s.config.router, work),
    }


def _layers(work: Work, names: tuple[str, ...]) -> list[Values]:
    """Layers that are made alike, with the numbers of all of them."""
    kinds: dict[LayerWork, list[int]] = {}
    for number, layer in enumerate(work.layers):
        kinds.setdefault(layer, []).append(number)
    return [
        {
            "numbers": numbers,
            "depth": layer.depth,
            "experts": layer.experts,
            "rows": sum(layer.rows),  # of a pool
            "rows_share": sum(layer.rows) / work.rows,
            "groups": {
                g.name: {
                    "experts": g.experts,
                    "width": g.width,
                    "serves": [names[m] for m in g.modalities],
                    "rows_per_expert": places,  # of a pool
                    "rows_are_exact": (work.constant or g.experts == 1)
                    and (work.exact or not layer.depth or len(g.modalities) == len(names)),
                }
                for g, places in zip(layer.groups, layer.places, strict=True)
            },
        }
        for layer, numbers in kinds.items()
    ]


def _parameters(model: Transformer, work: Work) -> Values:
    parts = count_parameters(model, work)
    total, active = sum(p.total for p in parts.values()), sum(p.active for p in parts.values())
    return {"total": total, "active": active, "by_part": {name: asdict(p) for name, p in parts.items()}}


def _flops(s: Subject, work: Work) -> Values:
    ids, names = s.model.embedding.num_embeddings, s.model.modality_names
    parts = forward_flops(s.config.model, work, ids)
    forward, base = sum(parts.values()), None
    if s.dense is not None:
        dense_work = model_work(s.dense.model, s.dense.router, names, s.budget)
        base = sum(forward_flops(s.dense.model, dense_work, ids).values())
    return {
        "forward": forward,
        "training": TRAINING * forward,
        "recomputation": recomputed_flops(parts, s.config.trainer.activation_checkpointing),
        "dense_forward": base,
        "dense_size": s.dense_size,
        "ratio_to_dense": None if base is None else forward / base,
        "by_part": parts,
    }


def _memory(s: Subject) -> Values:
    values = {"device": s.device, "precision": s.precision} | asdict(s.memory)
    if s.memory.activations is not None:
        return values | {"activations_total": sum(s.memory.activations.values()), "unknown": None}
    depth = s.config.model.depth
    if depth is not None and not depth.per_modality:
        reason = "with model.depth.per_modality=false only the device knows how many rows an expert takes"
    else:
        reason = f"trainer.backend={s.config.trainer.backend} reads on the device how many rows an expert takes"
    return values | {"activations_total": None, "unknown": reason}


def _choosers(config: ModelConfig, router: RouterConfig, work: Work) -> dict[str, int]:
    """What chooses, or drops, among rows, later ones too -> among those of how many sequences."""
    routed = any(g.experts > 1 for layer in work.layers for g in layer.groups)
    who = "experts" if router.needs_auxiliary else "capacity"
    experts = {who: work.pool} if routed and router.looks_ahead else {}
    return experts if config.depth is None else experts | {"depth": 1 if config.depth.per_modality else work.pool}
