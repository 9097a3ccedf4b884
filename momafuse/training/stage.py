"""What the loop does with batches: pretraining (pretraining.py), auxiliary routers (auxiliary.py), tokenizers (tokenizers/).

A stage is made for one run, on every rank. The loop (loop.py, steps.py) knows steps, ranks, saves and reports; a stage knows
what is trained, on what, and what is said of it. Every rank calls the same methods in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer

from momafuse.config.compose import Job
from momafuse.config.schema import RunnableConfig
from momafuse.parallel.precision import Working
from momafuse.reports.logger import Logger
from momafuse.training.optimizer import set_learning_rate
from momafuse.training.schedule import rate_of
from momafuse.training.seed import Seed
from momafuse.world import World

B = TypeVar("B")  # a micro-batch
E = TypeVar("E")  # what an evaluation finds


class Stage(ABC, Generic[B, E]):
    unit: ClassVar[str]  # what speed is counted in, e.g. tokens
    item: ClassVar[str]  # what a batch counts, e.g. sequence
    counted: ClassVar[tuple[str, ...]]  # keys of the state that every row of metrics holds beside `step`

    config: RunnableConfig
    name: str  # of what is trained, for people
    reads: str  # what it reads, for people
    data: str  # fingerprint of that: a run goes on with the same alone
    world: World
    dtype: torch.dtype  # of the products
    model: nn.Module  # all that is saved beside the optimizers' state; buffers too
    working: Working  # the model computes under it
    optimizers: Sequence[Optimizer]

    # -- before the first step

    @abstractmethod
    def first_state(self, seed: Seed | None) -> dict[str, Any]:
        """What the state of step 0 counts; weights that come from elsewhere are written into the model."""

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raises UserError where a run cannot go on from `state`."""

    def introduction(self, state: Mapping[str, Any]) -> list[str]:
        """Lines for people, of what this stage has beside others."""
        return []

    def size(self) -> int:
        """Parameters of what is trained."""
        return sum(p.numel() for p in self.model.parameters())

    @abstractmethod
    def rehearse(self) -> None:
        """A micro-batch forth and back, so that what cannot work fails before the first step; only gradients are left."""

    @abstractmethod
    def smaller(self) -> tuple[str, list[str]]:
        """What a micro-batch holds, in words, and overrides that would make less of it fit."""

    # -- a step

    @abstractmethod
    def stream(self, state: Mapping[str, Any]) -> Generator[list[B], None, None]:
        """From the step after the state's on: the micro-batches of this rank, a list a step, without end."""

    @abstractmethod
    def slow_data(self) -> str:
        """What to do where steps wait for it (data_wait.py)."""

    @abstractmethod
    def weight(self, micro_batches: Sequence[B]) -> int:
        """What these count in the mean over a step: targets, pictures. On the host."""

    def begin(self, step: int, state: Mapping[str, Any]) -> dict[str, float]:
        """Before the forwards of `step`: learning rates are set. -> values of its row"""
        lr = rate_of(self.config, step, int(state["schedule_steps"]))
        for optimizer in self.optimizers:
            set_learning_rate(optimizer, lr)
        return {"train/lr": lr}

    @abstractmethod
    def backward(self, batch: B, weight: int, step: int) -> Tensor:
        """Add the gradients of a micro-batch, of its part in the mean over `weight` of all ranks. -> sums for `row`, () or
        more float64 on the device."""

    @abstractmethod
    def row(self, sums: Sequence[float]) -> dict[str, float]:
        """`train/loss` and more, from the sums of all micro-batches and ranks, on the host."""

    def said(self) -> list[str]:
        """Lines for people, of the last `row`."""
        return []

    def after_backward(self) -> None:
        """When all micro-batches of the step have added their gradients."""

    def watched(self) -> dict[str, list[nn.Parameter]]:
        """Parameters whose gradients' norm is reported, as `train/NAME_grad_norm`, beside that of all."""
        return {}

    def update(self, norms: Mapping[str, Tensor], sums: Tensor) -> None:
        """Change the weights; `norms` of gradients, of `watched` and of `all` parameters; `sums` as in `row`, on the device."""
        if self.config.optim.grad_clip is not None:
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            for sharded in (True, False):  # one launch takes tensors of one kind
                alike = [p for p in parameters if isinstance(p, DTensor) is sharded]
                clip_grads_with_norm_(alike, self.config.optim.grad_clip, norms["all"])
        for optimizer in self.optimizers:
            optimizer.step()

    def before_update(self) -> None:
        """Whether or not an update is made."""

    def after_update(self, step: int, *, made: bool) -> dict[str, float]:
        """More values of the row; `made`: the guard had no objection."""
        return {}

    @abstractmethod
    def count(self, state: dict[str, Any], step: int) -> None:
        """Advance in the state what `first_state` began, by step `step`."""

    @abstractmethod
    def of_step(self) -> int:
        """How many units a step has, on all ranks."""

    @abstractmethod
    def flops(self, step: int) -> float:
        """Of all ranks, forward and backward."""

    # -- reports

    @abstractmethod
    def evaluate(self) -> E:
        """On what is held out, the same on every rank."""

    @abstractmethod
    def report(self, found: E, state: Mapping[str, Any], logger: Logger) -> None:
        """A row of metrics, and what people must know to read it."""

    @abstractmethod
    def renew(self, job: Job[Any], path: Path, state: dict[str, Any], found: E, logger: Logger) -> None:
        """The run folder's pages after an evaluation that is not the last; on the main process alone."""

    @abstractmethod
    def finish(self, job: Job[Any], path: Path, state: dict[str, Any], found: E, logger: Logger) -> None:
        """report.json, last of all, and what to try next; on the main process alone."""
