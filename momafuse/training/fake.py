"""The model and the step of a config on fake tensors, which have shapes and no contents: what `describe` measures.

The counterpart of setup.py and loop.py: everything that they apply to a model is applied here, but for compile, which changes
no result. Call under FakeTensorMode. Nothing is initialised, read or computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.models.transformer import Transformer
from momafuse.parallel.checkpointing import apply_activation_checkpointing
from momafuse.parallel.precision import apply_precision
from momafuse.routing.noise import logistic_noise
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.losses import LossMeter, modality_table, objective
from momafuse.training.optimizer import freeze


def fake_model(config: Config, v: Vocabulary, dtype: torch.dtype, *, on_gpu: bool = False) -> Transformer:
    """The model that train builds, its rows in `dtype`; `on_gpu`: with the products that `auto` takes there."""
    t = config.trainer
    backend = "triton" if on_gpu and t.backend == "auto" else t.backend
    model = Transformer(config.model, config.router, vocabulary_size=v.size, modality_names=v.names, backend=backend)
    freeze(model, config.optim.train)
    apply_precision(model, dtype)
    apply_activation_checkpointing(model, t.activation_checkpointing)
    return model


def fake_forward(config: Config, v: Vocabulary, budget: tuple[int, ...], model: Transformer) -> tuple[Tensor, Any]:
    """One micro-batch -> its loss, and what the loop holds on to until the next one."""
    batch = fake_batch(config.trainer.micro_batch, budget)
    noise = None
    if config.noisy:
        layers, experts = len(model.blocks), model.n_experts
        noise = logistic_noise(batch, seed=config.run.seed, step=1, layers=layers, experts=experts)
    meter = LossMeter(v.names, modality_table(v, torch.device("cpu")))
    loss, decisions = model(batch, objective(batch, meter, config.objective, 1), noise)
    return loss.total, (batch, noise, meter, loss, decisions)


def fake_batch(sequences: int, budget: tuple[int, ...]) -> Batch:
    """Tensors of the shapes and dtypes that the loader makes."""
    shape = sequences, sum(budget)
    return Batch(
        tokens=torch.empty(shape, dtype=torch.int64),
        targets=torch.empty(shape, dtype=torch.int64),
        modality=torch.empty(shape, dtype=torch.uint8),
        document=torch.empty(shape, dtype=torch.int32),
        position=torch.empty(shape, dtype=torch.int32),
        sequence=torch.empty(sequences, dtype=torch.int64),
        begins=torch.empty(sequences + 1, dtype=torch.int32),
        order=torch.empty(sequences * sum(budget), dtype=torch.int64),
        budget=budget,
    )
