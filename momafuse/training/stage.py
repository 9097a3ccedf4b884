"""What the loop does with batches and reports: pretraining here, auxiliary routers in auxiliary.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from momafuse.config.compose import Job
from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.data.corpus import Corpus
from momafuse.models.transformer import Observe
from momafuse.parallel.graphs import CudaCapture, Replayed
from momafuse.reports.flops import TRAINING
from momafuse.reports.logger import Logger
from momafuse.training.finish import finish, renew
from momafuse.training.held_out import HeldOut, evaluate
from momafuse.training.losses import LossMeter, modality_table
from momafuse.training.setup import Setup
from momafuse.training.step import backward, micro_batch, numbers, step_flops


class Stage(Protocol):
    def meter(self) -> Any: ...
    def backward(self, batch: Batch, meter: Any, valid: int, step: int, observe: Observe | None = None) -> Tensor: ...
    def flops(self, step: int) -> float: ...
    def evaluate(self) -> HeldOut: ...
    def renew(self, job: Job, path: Path, state: dict[str, Any], held_out: HeldOut, logger: Logger) -> None: ...
    def finish(self, job: Job, path: Path, state: dict[str, Any], held_out: HeldOut, logger: Logger) -> None: ...


@dataclass(frozen=True)
class Pretraining:
    """All of the model learns the next token."""

    config: Config
    setup: Setup
    corpus: Corpus

    @cached_property
    def _table(self) -> Tensor:
        return modality_table(self.corpus.vocabulary, self.setup.world.device)

    def meter(self) -> LossMeter:
        return LossMeter(self.corpus.vocabulary.names, self._table)

    @cached_property
    def _replayed(self) -> Replayed:
        learning = [p for group in self.setup.optimizer.param_groups for p in group["params"]]
        return Replayed(self._micro_batch, learning, CudaCapture(self.setup.world.device))

    def _micro_batch(self, batch: Batch, of_step: Tensor) -> tuple[Tensor, Tensor]:
        meter = self.meter()
        chosen = micro_batch(self.config, self.setup, batch, meter, of_step)
        return meter.sums, chosen

    def backward(self, batch: Batch, meter: LossMeter, valid: int, step: int, observe: Observe | None = None) -> Tensor:
        if observe is not None or not self.config.trainer.cuda_graphs:
            return backward(self.config, self.setup, batch, meter, valid, step, observe)
        sums, chosen = self._replayed(batch, numbers(self.setup, valid, step))
        meter.sums += sums
        return chosen

    def flops(self, step: int) -> float:
        """Of all ranks, forward and backward."""
        return TRAINING * sum(step_flops(self.config, self.setup, step).values())

    def evaluate(self) -> HeldOut:
        return evaluate(self.config, self.setup, self.corpus)

    def renew(self, job: Job, path: Path, state: dict[str, Any], held_out: HeldOut, logger: Logger) -> None:
        renew(job, self.setup, self.corpus, path, state, held_out, logger)

    def finish(self, job: Job, path: Path, state: dict[str, Any], held_out: HeldOut, logger: Logger) -> None:
        finish(job, self.setup, self.corpus, path, state, held_out, logger)
