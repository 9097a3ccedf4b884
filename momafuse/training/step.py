"""The forward and backward pass of one micro-batch, and Python's collector on fixed steps."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.routing.noise import logistic_noise
from momafuse.routing.statistics import chosen_counts
from momafuse.training.losses import LossMeter, objective
from momafuse.training.setup import Setup

COLLECT_EVERY = 100  # steps


def backward(config: Config, setup: Setup, host_batch: Batch, meter: LossMeter, valid: int, step: int) -> Tensor:
    """Add the gradients of a micro-batch: its loss over the `valid` targets of the whole step. `meter` adds it up.

    Returns (3 M,) float64 on the device: rows of each modality chosen by 0, 1 and more experts, of all layers.
    """
    batch = host_batch.to(setup.world.device)
    loss, decisions = setup.model(batch, objective(batch, meter, config.objective, valid), noise(config, setup, batch, step))
    loss.total.backward()
    modalities = len(batch.budget)
    chosen = torch.zeros(3 * modalities, dtype=torch.float64, device=setup.world.device)
    for d in decisions if setup.model.chooses_experts else ():
        if d.experts is not None:
            chosen += chosen_counts(d.experts, d.kept or batch, modalities).flatten()
    return chosen


def noise(config: Config, setup: Setup, batch: Batch, step: int) -> Tensor | None:
    """The step's router noise for all layers, if the config wants any."""
    if not config.router.noise:
        return None
    model = setup.model
    return logistic_noise(batch, seed=config.run.seed, step=step, layers=len(model.blocks), experts=model.n_experts)


@contextmanager
def collecting() -> Iterator[Callable[[int], None]]:
    """Python's garbage collector runs where the step asks for it: by itself it stops ranks one after the other, and a rank
    that stops holds up all."""

    def collect(step: int) -> None:
        if step % COLLECT_EVERY == 0:
            gc.collect()

    was_on = gc.isenabled()
    gc.disable()
    try:
        yield collect
    finally:
        if was_on:
            gc.enable()
