"""The members of the zoo as tests build them: from the YAML files of configs/experiment, micro size, a small vocabulary."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from momafuse.config.compose import compose, members
from momafuse.data.batch import Batch
from momafuse.models.block import Decision
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token

MEMBERS = tuple(members())


def member(
    experiment: str, *overrides: str, vocabulary: int = 64, dtype: torch.dtype = torch.float32, auxiliary: bool = False
) -> Transformer:
    """One experiment at size micro with these overrides, initialised from seed 0."""
    config = compose([f"+experiment={experiment}", "size=micro", "data.image_share=0.5", *overrides]).config
    names = ("text", "image")
    model = Transformer(
        config.model,
        replace(config.router, auxiliary=auxiliary),
        vocabulary_size=vocabulary,
        modality_names=names,
        backend=config.trainer.backend,
    )
    initialise(model, 0)
    return model.to(dtype)


def mean_loss(model: Transformer, batch: Batch, noise: Tensor | None = None) -> tuple[Tensor, list[Decision]]:
    """The mean loss over valid targets, z-loss included, and the routers' decisions."""
    targets = batch.targets.flatten()
    weights = torch.full(targets.shape, 1 / max(1, int((targets >= 0).sum())), device=targets.device)
    return model(batch, lambda hidden, head: next_token(hidden, head, targets, weights, 1e-5).total, noise)
