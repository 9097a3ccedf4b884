"""The forward and backward pass of one micro-batch, what a step costs, and Python's collector on fixed steps."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.models.block import Decision
from momafuse.models.transformer import Observe
from momafuse.reports.flops import forward_flops
from momafuse.reports.work import model_work
from momafuse.routing.noise import logistic_noise
from momafuse.routing.routers import Router
from momafuse.routing.statistics import chosen_counts
from momafuse.training.losses import LossMeter, objective
from momafuse.training.routers import RouterWork
from momafuse.training.schedule import capacity_factor
from momafuse.training.setup import Setup

COLLECT_EVERY = 100  # steps


def backward(
    config: Config,
    setup: Setup,
    host_batch: Batch,
    meter: LossMeter,
    of_step: Tensor,
    step: int,
    work: RouterWork,
    observe: Observe | None = None,
) -> Tensor:
    """Add the gradients of a micro-batch: its loss over the valid targets of the whole step, `numbers` `of_step`. `meter` adds
    it up.

    `observe` gets the output of every layer. Returns what `micro_batch` does.
    """
    with capacity_of(config, setup, step):
        return micro_batch(config, setup, host_batch.to(setup.world.device), meter, of_step, work, observe)


def numbers(setup: Setup, valid: int, step: int, nth: int = 1) -> Tensor:
    """(3,) int64 on the device: valid targets, at least 1, step, and which of its micro-batches. Filled there: a copy would
    wait."""
    return torch.cat([torch.full((1,), n, device=setup.world.device) for n in (max(1, valid), step, nth)])


def micro_batch(
    config: Config,
    setup: Setup,
    batch: Batch,
    meter: LossMeter,
    numbers: Tensor,
    work: RouterWork,
    observe: Observe | None = None,
) -> Tensor:
    """`backward` of a batch on the device and the `numbers` of its step. The host gives its launches nothing that changes from
    call to call: done again on other contents of the same tensors, they are the micro-batch of those. Returns `chosen_rows` and
    what routers add up."""
    valid, step, nth = numbers
    loss_of, drawn = objective(batch, meter, config.objective, valid), noise(config, setup, batch, step)
    loss, decisions = setup.model(batch, loss_of, drawn, observe=observe)
    of_routers, sums = work.of_micro_batch(batch, decisions, nth)
    (loss.total if of_routers is None else loss.total + of_routers).backward()
    return torch.cat([chosen_rows(setup, batch, decisions), sums])


def chosen_rows(setup: Setup, batch: Batch, decisions: Sequence[Decision]) -> Tensor:
    """(3 M,) float64 on the device: rows of each modality chosen by 0, 1 and more experts, of all layers."""
    modalities = len(batch.budget)
    chosen = torch.zeros(3 * modalities, dtype=torch.float64, device=setup.world.device)
    for d in decisions if setup.model.chooses_experts else ():
        if d.experts is not None:
            chosen += chosen_counts(d.experts, d.kept or batch, modalities).flatten()
    return chosen


def noise(config: Config, setup: Setup, batch: Batch, step: Tensor) -> Tensor | None:
    """The step's router noise for all layers, if the config wants any."""
    if not config.noisy:
        return None
    model = setup.model
    return logistic_noise(batch, seed=config.run.seed, step=step, layers=len(model.blocks), experts=model.n_experts)


@contextmanager
def capacity_of(config: Config, setup: Setup, step: int) -> Iterator[None]:
    """Routers take as many rows as they do on `step`; evaluations take those of router.capacity_factor."""
    routers = [m for m in setup.model.modules() if isinstance(m, Router)] if config.upcycling.capacity_steps else []
    for router in routers:
        router.capacity_factor = factor_of(config, setup, step)
    try:
        yield
    finally:
        for router in routers:
            router.capacity_factor = config.router.capacity_factor


def factor_of(config: Config, setup: Setup, step: int) -> float:
    """The capacity factor of a step."""
    return capacity_factor(config, step, max(g.experts for g in setup.model.groups))


def step_flops(config: Config, setup: Setup, step: int) -> dict[str, float]:
    """What the forward of a step costs on all ranks, by part (reports/flops.py); recomputation is not counted."""
    router = replace(config.router, capacity_factor=factor_of(config, setup, step))
    work = model_work(config.model, router, setup.model.modality_names, setup.plan.budget)
    tokens = config.trainer.global_batch * config.data.sequence_length
    parts = forward_flops(config.model, work, setup.model.embedding.num_embeddings)
    return {name: tokens * flops for name, flops in parts.items()}


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
