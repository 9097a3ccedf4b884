"""The steps of a run, from where its state stands to the last: data, losses, update, report, evaluation, checkpoint.

Every rank makes the same steps and meets the others twice in each: before it, with what its batches weigh, and for the sums of
losses and gradient norms, which arrive on the host in one piece. Decides nothing about what is learnt (stage.py) or whether
an update is made (guard.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Generic

import torch

from momafuse.checkpoint.saving import Saver
from momafuse.draws import seed_of
from momafuse.preemption import asked, leave_if
from momafuse.reports.logger import Logger
from momafuse.training.data_wait import Waits
from momafuse.training.folder import RunFolder
from momafuse.training.guard import Guard, gradient_norm
from momafuse.training.profile import Profile
from momafuse.training.speed import Speed
from momafuse.training.stage import B, E, Stage


@dataclass(frozen=True)
class Steps(Generic[B, E]):
    stage: Stage[B, E]
    yaml: str  # its config, as a checkpoint keeps it
    folder: RunFolder
    state: dict[str, Any]  # of the run; steps advance it
    logger: Logger
    saver: Saver
    renew: Callable[[E], None]  # the run's page, after an evaluation that is not the last

    def run(self, total: int, collect: Callable[[int], None]) -> E | None:
        """Up to step `total`; returns the evaluation of the last one if there was one. `collect` ends each step."""
        state, stage, config = self.state, self.stage, self.stage.config
        t = config.trainer
        guard = Guard(config, stage.world, self.folder.checkpoints, state.get("guard"), self.saver.wait)
        speed, profile = Speed(stage, self.saver), Profile(t, self.folder.path, stage.world, self.logger.message)
        waits = Waits(t.log_every, stage.slow_data(), self.logger.message)
        held_out = self._evaluate() if state.get("evaluation_due") else None  # it was left in the midst of one
        stream = stage.stream(state)
        first, together = state["step"] + 1, time.perf_counter()
        for step in range(first, total + 1):
            profile.begin(step)
            begin = time.perf_counter()
            micro_batches = next(stream)
            alone = time.perf_counter() - begin
            weight, worked, waited = self._meet(stage.weight(micro_batches), together, alone)
            together = time.perf_counter()
            row = self._step(step, micro_batches, weight, guard)
            seconds = time.perf_counter() - begin
            stage.count(state, step)
            due = step == total or bool(t.eval_every and step % t.eval_every == 0)
            state.update(step=step, seconds=state["seconds"] + seconds, guard=guard.state(), evaluation_due=due)
            counts = {key: state[key] for key in ("step", *stage.counted)}
            self.logger.step(counts | row | speed.row(step, seconds, waited, worked))
            waits.step(waited, seconds)
            profile.end(step)
            saves = step == total or bool(config.checkpoint.every and step % config.checkpoint.every == 0)
            if saves or step == first:
                guard.check_parameters(step, stage.model)
            if due:
                held_out = self._evaluate()
                if step < total:
                    self.renew(held_out)
            if saves:
                self.save()
            collect(step)
        stream.close()
        return held_out

    def save(self) -> None:
        """A checkpoint of the state as it stands."""
        self.saver.save(self.state["step"], self.stage.model, self.stage.optimizers, self.state, self.yaml)

    def _evaluate(self) -> E:
        found = self.stage.evaluate()
        self.stage.report(found, self.state, self.logger)
        self.state["evaluation_due"] = False
        return found

    def _meet(self, weight: int, together: float, waited: float) -> tuple[int, list[float], float]:
        """What the step weighs on all ranks, the seconds that each worked since they were `together`, and those that one of
        them `waited` for data, at most.

        Raises Preempted, on every rank, if one was asked to leave.
        """
        ranks = self.stage.world.gather(weight, time.perf_counter() - together, waited, asked())
        weights, worked, waits, numbers = zip(*ranks, strict=True)
        leave_if(max(numbers))
        return int(sum(weights)), list(worked), max(waits)

    def _step(self, step: int, micro_batches: Sequence[B], weight: int, guard: Guard) -> dict[str, float]:
        """Forward, backward and update; returns the losses and gradient norms of the whole step."""
        stage = self.stage
        row = stage.begin(step, self.state)
        torch.manual_seed(seed_of("step", stage.config.run.seed, step, stage.world.rank))  # for dropout
        with stage.working():
            sums = reduce(torch.add, [stage.backward(batch, weight, step) for batch in micro_batches])
        stage.after_backward()
        watched = stage.watched() | {"all": list(stage.model.parameters())}
        norms = {name: gradient_norm(parameters, stage.world.device) for name, parameters in watched.items()}
        summed = stage.world.sum(sums)  # of losses and whatever the stage counts in one piece
        values = torch.cat([summed, torch.stack(list(norms.values())).double()]).tolist()  # waits for the device
        row |= stage.row(values[: len(sums)])
        for line in stage.said():
            self.logger.message(line)
        found = dict(zip(norms, values[len(sums) :], strict=True))
        objection = guard.objection(step, row["train/loss"], found["all"])
        stage.before_update()
        if objection is None:
            stage.update(norms, summed)
        else:
            self.logger.message(objection)
        for optimizer in stage.optimizers:
            optimizer.zero_grad(set_to_none=True)
        row |= stage.after_update(step, made=objection is None)
        row |= {"train/grad_norm": found.pop("all"), "train/skipped": int(objection is not None)}
        return row | {f"train/{name}_grad_norm": norm for name, norm in found.items()}
