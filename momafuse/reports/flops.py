"""FLOPs a token, forward, by part, from shapes alone; a multiply-add is two.

    projections, experts, routers, head     2 (rows) (inputs) (outputs) of each matrix
    attention scores and values             4 D (pairs),   pairs = S (S + 1) / 2 of a sequence of S rows
    training = 3 forward                    one product forward, two backward

Attention is causal over the whole sequence: row i attends to i + 1 rows; a document mask is not taken off. What a mixture of
depths passes by costs nothing, and the kept rows attend among themselves. Elementwise work, norms and look-ups are not
counted, but for the one product of untied norms (models/norms.py). Recomputation under activation checkpointing comes apart.

Shape legend: D width, S rows of a sequence, V vocabulary, E experts, F expert width, M modalities. Counted for a pool
(reports/work.py) and divided by its rows: an average over the tokens of the modality budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from momafuse.config.schema import ModelConfig
from momafuse.reports.work import LayerWork, Work

TRAINING = 3  # forward passes that a training step costs
EXPERTS = "experts."  # and the group's name
FFN_BETWEEN = "ffn_between"

Counts = dict[str, float]


def forward_flops(config: ModelConfig, work: Work, vocabulary_size: int) -> Counts:
    """Part -> FLOPs a token; `vocabulary_size` is the number of rows of the head."""
    parts: Counts = {}
    for layer in work.layers:
        for part, flops in layer_flops(config, work, layer).items():
            parts[part] = parts.get(part, 0) + flops
    parts["head"] = 2 * config.dim * vocabulary_size * work.rows
    return {part: flops / work.rows for part, flops in parts.items() if flops}


def layer_flops(config: ModelConfig, work: Work, layer: LayerWork) -> Counts:
    """Part -> FLOPs of one layer for a pool."""
    dim, rows = config.dim, sum(layer.rows)
    kv = config.attention.n_kv_heads or config.n_heads
    routed = sum(g.experts for g in layer.groups if g.experts > 1) if work.scored else 0
    parts: Counts = {
        "attention_projections": 2 * rows * dim * (2 * dim + 2 * kv * (dim // config.n_heads)),
        "attention_scores": 4 * dim * work.pool * layer.span * (layer.span + 1) / 2,
        "untied_norms": 2 * rows * len(layer.rows) * _untied_scales(config),
        "router": 2 * rows * dim * routed,
        "depth_router": 2 * work.rows * dim * layer.depth,
    }
    for group, places in zip(layer.groups, layer.places, strict=True):
        part = EXPERTS + group.name if layer.experts else FFN_BETWEEN
        parts[part] = 6 * dim * group.width * group.experts * places
    return parts


def _untied_scales(config: ModelConfig) -> int:
    """Channels of the scales (and biases) of a layer that each row picks by a product with its one-hot modality."""
    if "norms" not in config.untie:
        return 0
    a = config.attention
    of_a_head = {"none": 0, "rms": 1, "layer": 2}[a.qk_norm]
    heads = config.n_heads + (a.n_kv_heads or config.n_heads) if a.qk_norm_per_head else 2  # those of queries, those of keys
    return 2 * config.dim + heads * of_a_head * (config.dim // config.n_heads)


# Parts of the forward that a block computes again in its backward (parallel/checkpointing.py): `selective` keeps the results
# of plain products and of the attention, so that the experts are what is left.
RECOMPUTED: Mapping[str, Callable[[str], bool]] = {
    "none": lambda part: False,
    "selective": lambda part: part.startswith(EXPERTS) or part == FFN_BETWEEN,
    "full": lambda part: part != "head",
}


def recomputed_flops(parts: Counts, mode: Literal["none", "selective", "full"]) -> float:
    """FLOPs a token that activation checkpointing adds to a training step."""
    return sum(flops for part, flops in parts.items() if RECOMPUTED[mode](part))
