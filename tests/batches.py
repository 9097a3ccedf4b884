"""Batches made by hand for tests: exact budgets, random order of modalities, no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from momafuse.config.compose import compose
from momafuse.config.schema import AttentionConfig, DepthConfig, ModelConfig
from momafuse.data.batch import Batch, begins_of
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.routing.config import RouterConfig


def make_batch(
    sequences: int,
    budget: tuple[int, ...],
    vocabulary: int = 64,
    seed: int = 0,
    first_sequence: int = 0,
    documents: int = 2,
) -> Batch:
    """Random ids; modality m has the ids that are m modulo the number of modalities."""
    rng = np.random.default_rng(seed)
    length, m = sum(budget), len(budget)
    modality = np.stack([rng.permutation(np.repeat(np.arange(m), budget)) for _ in range(sequences)])
    tokens = rng.integers(0, vocabulary // m, (sequences, length)) * m + modality
    document = np.sort(rng.integers(0, documents, (sequences, length)), axis=1)
    targets = np.full_like(tokens, -1)
    same = document[:, 1:] == document[:, :-1]
    targets[:, :-1] = np.where(same, tokens[:, 1:], -1)
    return Batch(
        tokens=torch.from_numpy(tokens),
        targets=torch.from_numpy(targets),
        modality=torch.from_numpy(modality.astype(np.uint8)),
        document=torch.from_numpy(document.astype(np.int32)),
        position=torch.arange(length, dtype=torch.int32).expand(sequences, -1).contiguous(),
        sequence=torch.arange(first_sequence, first_sequence + sequences),
        begins=begins_of(torch.from_numpy(document)),
        order=torch.from_numpy(np.argsort(modality.reshape(-1), kind="stable")),
        budget=budget,
    )


def router_config(**changes: Any) -> RouterConfig:
    """That of configs/train.yaml, without noise, with these values; `loss` is a mapping of its own changes."""
    plain = replace(compose([]).config.router, noise=False)
    if "loss" in changes:
        changes["loss"] = replace(plain.loss, **changes["loss"])
    return replace(plain, **changes)


def make_model(
    experts: dict[str, int],
    *,
    modalities: tuple[str, ...] = ("text", "image"),
    dim: int = 16,
    layers: int = 2,
    heads: int = 2,
    ffn: int = 24,
    vocabulary: int = 64,
    placement: str = "swin",
    pool: int = 2,
    capacity_factor: float = 1.0,
    backend: str = "auto",
    document_mask: bool = False,
    qk_norm: str = "rms",
    qk_norm_per_head: bool = False,
    n_kv_heads: int | None = None,
    dropout: float = 0.0,
    width_share: dict[str, float] | None = None,
    untie: tuple[str, ...] = (),
    towers: Sequence[Sequence[str]] = (),
    depth: DepthConfig | None = None,
    auxiliary: bool = False,
    routing: dict[str, Any] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """`routing`: more keys of `router`."""
    attention = AttentionConfig(
        n_kv_heads=n_kv_heads,
        qk_norm=qk_norm,  # type: ignore[arg-type]
        qk_norm_per_head=qk_norm_per_head,
        rope_theta=10_000.0,
        document_mask=document_mask,
    )
    config = ModelConfig(
        name="test",
        vocabulary_size=None,
        dim=dim,
        n_layers=layers,
        n_heads=heads,
        ffn=ffn,
        ffn_multiple_of=8,
        placement=placement,  # type: ignore[arg-type]
        norm_eps=1e-5,
        dropout=dropout,
        attention=attention,
        experts=experts,
        width_share=width_share or {},
        untie=list(untie),  # type: ignore[arg-type]
        towers=[list(tower) for tower in towers],
        depth=depth,
    )
    router = router_config(pool=pool, capacity_factor=capacity_factor, auxiliary=auxiliary, **(routing or {}))
    model = Transformer(
        config,
        router,
        vocabulary_size=vocabulary,
        modality_names=modalities,
        backend=backend,  # type: ignore[arg-type]
    )
    initialise(model, seed)
    return model.to(dtype)
