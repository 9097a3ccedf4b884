"""The stage of pretraining: all of the model learns the next token. And the door: which stage of a language model a config is,
and its run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from momafuse.checkpoint import store
from momafuse.config.compose import Job
from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.data.encoding import Encoder
from momafuse.data.making import FIRST
from momafuse.data.prepare import open_or_prepare
from momafuse.parallel.graphs import CudaCapture, Replayed
from momafuse.preemption import heeding
from momafuse.reports.flops import TRAINING
from momafuse.reports.logger import Logger
from momafuse.routing.statistics import chosen_shares
from momafuse.training.auxiliary import Auxiliaries
from momafuse.training.finish import finish, renew
from momafuse.training.folder import RunFolder
from momafuse.training.held_out import HeldOut, evaluate
from momafuse.training.language import STAGES, LanguageStage
from momafuse.training.loop import run
from momafuse.training.losses import LossMeter, modality_table
from momafuse.training.routers import RouterWork
from momafuse.training.schedule import stage_begins
from momafuse.training.setup import build, check_vocabulary
from momafuse.training.step import backward, micro_batch, numbers, step_flops
from momafuse.world import World

S = TypeVar("S", Sequence[float], Tensor)


def train(job: Job, say: Callable[[str], None] = print) -> None:
    """Run or go on with `run.root/run.name` until `trainer.max_steps`. Raises UserError for what a user can mend."""
    run(job, made, say)


def made(world: World, config: Config, folder: RunFolder) -> LanguageStage:
    check_vocabulary(config, Encoder.load(config.tokenizer).vocabulary)  # before a long prepare
    begins = world.on_main(lambda: begins_of(config, folder))
    with nullcontext() if world.main else heeding(FIRST):  # who waits leaves when the main process does
        corpus = world.main_first(lambda: open_or_prepare(config))
    stage: type[LanguageStage] = Auxiliaries if config.router.auxiliary else Pretraining
    return stage(config, build(config, corpus, world, begins), corpus)


def begins_of(config: Config, folder: RunFolder) -> list[int]:
    """Where the stages of the mixture begin: as in the run whose data this one goes on with, if there is one."""
    state = folder.state
    if state is None and folder.seed is not None:
        state = folder.seed.state
    if state is None and config.model_from is not None:
        state = store.read_state(store.find(Path(config.model_from).expanduser(), "model_from"))
    return stage_begins(config) if state is None else list(state.get(STAGES, []))


class Pretraining(LanguageStage):
    _done = 0  # micro-batches of this step

    @cached_property
    def _routers(self) -> RouterWork:
        t = self.config.trainer
        return RouterWork(self.setup.model, self.world, t.global_batch // (t.micro_batch * self.world.size))

    @cached_property
    def _table(self) -> Tensor:
        return modality_table(self.corpus.vocabulary, self.world.device)

    def _meter(self) -> LossMeter:
        return LossMeter(self.corpus.vocabulary.names, self._table)

    @cached_property
    def _replayed(self) -> Replayed:
        learning = [p for group in self.setup.optimizer.param_groups for p in group["params"]]
        return Replayed(self._micro_batch, learning, CudaCapture(self.world.device))

    def _micro_batch(self, batch: Batch, of_step: Tensor) -> tuple[Tensor, Tensor]:
        meter = self._meter()
        chosen = micro_batch(self.config, self.setup, batch, meter, of_step, self._routers)
        return meter.sums, chosen

    def backward(self, batch: Batch, weight: int, step: int) -> Tensor:
        """-> nats and targets by modality, rows of each modality chosen by 0, 1 and more experts, and what routers add up."""
        self._done += 1
        of_step = numbers(self.setup, weight, step, self._done)
        if self.observe is not None or not self.config.trainer.cuda_graphs:
            meter = self._meter()
            chosen = backward(self.config, self.setup, batch, meter, of_step, step, self._routers, self.observe)
            return torch.cat([meter.sums.flatten(), chosen])
        sums, chosen = self._replayed(batch, of_step)
        return torch.cat([sums.flatten(), chosen])

    def row(self, sums: Sequence[float]) -> dict[str, float]:
        losses, chosen, routers = self._parts(sums)
        found = self._meter().named("train/", losses) | chosen_shares(chosen, self.setup.model.modality_names)
        return found | self._routers.row(routers)

    def said(self) -> list[str]:
        return self._routers.said()

    def begin(self, step: int, state: Mapping[str, Any]) -> dict[str, float]:
        self._done = 0
        self._routers.begin()
        return super().begin(step, state)

    def update(self, norms: Mapping[str, Tensor], sums: Tensor) -> None:
        super().update(norms, sums)
        self._routers.update(self._parts(sums)[2])

    def _parts(self, sums: S) -> tuple[S, S, S]:
        """Losses, rows chosen, and what routers add up."""
        m = len(self.corpus.vocabulary.names)
        return sums[: 2 * m], sums[2 * m : 5 * m], sums[5 * m :]

    def flops(self, step: int) -> float:
        return TRAINING * sum(step_flops(self.config, self.setup, step).values())

    def evaluate(self) -> HeldOut:
        model = self.setup.model
        causal = model.routes and not model.needs_auxiliary  # else the same, or what only auxiliary routers can
        return evaluate(self.config, self.setup, self.corpus, "causal" if causal else "training")

    def renew(self, job: Job, path: Path, state: dict[str, Any], found: HeldOut, logger: Logger) -> None:
        renew(job, self.setup, self.corpus, path, state, found, logger)

    def finish(self, job: Job, path: Path, state: dict[str, Any], found: HeldOut, logger: Logger) -> None:
        finish(job, self.setup, self.corpus, path, state, found, logger)
