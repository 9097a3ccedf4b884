"""The steps of a run, from where its state stands to the last: data, losses, update, report, evaluation, checkpoint.

Every rank makes the same steps and meets the others twice in each: before it, with its number of targets, and for the sums of
losses and gradient norms, which arrive on the host in one piece. Decides nothing about what is learnt (stage.py) or whether
an update is made (guard.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_

from momafuse.checkpoint.saving import Saver
from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.preemption import Preempted, warned
from momafuse.reports.logger import Logger
from momafuse.routing.statistics import chosen_shares
from momafuse.training.finish import report_evaluation
from momafuse.training.folder import RunFolder
from momafuse.training.guard import Guard, gradient_norm
from momafuse.training.held_out import HeldOut
from momafuse.training.losses import count_targets
from momafuse.training.optimizer import set_learning_rate
from momafuse.training.probe import Probe
from momafuse.training.profile import Profile
from momafuse.training.schedule import learning_rate
from momafuse.training.setup import Setup
from momafuse.training.speed import Speed
from momafuse.training.stage import Stage

STEPS, SEEDS = 1 << 32, 1 << 20  # before the draws of one seed, or one rank, could meet those of the next


@dataclass(frozen=True)
class Steps:
    config: Config
    yaml: str  # the same, as a checkpoint keeps it
    setup: Setup
    stage: Stage
    folder: RunFolder
    state: dict[str, Any]  # of the run; steps advance it
    logger: Logger
    saver: Saver
    renew: Callable[[HeldOut], None]  # the run's page, after an evaluation that is not the last

    def run(self, total: int, collect: Callable[[int], None]) -> HeldOut | None:
        """Up to step `total`; returns the evaluation of the last one if there was one. `collect` ends each step."""
        state, t = self.state, self.config.trainer
        guard = Guard(self.config, self.setup.world, self.folder.checkpoints, state.get("guard"), self.saver.wait)
        speed, probe = Speed(self.config, self.setup, self.saver), Probe(t.probe, self.setup, t.replicas)
        profile = Profile(t, self.folder.path, self.setup.world, self.logger.message)
        held_out = self._evaluate() if state.get("evaluation_due") else None  # it was left in the midst of one
        stream = self._stream()
        first, together = state["step"] + 1, time.perf_counter()
        for step in range(first, total + 1):
            profile.begin(step)
            begin = time.perf_counter()
            micro_batches = next(stream)
            waited = time.perf_counter() - begin
            valid, worked = self._meet(micro_batches, together)
            together = time.perf_counter()
            row = self._step(step, micro_batches, valid, guard, probe)
            seconds = time.perf_counter() - begin
            self._count(step, seconds, guard, due=step == total or bool(t.eval_every and step % t.eval_every == 0))
            counts = {key: state[key] for key in ("step", "tokens", "flops")}
            self.logger.step(counts | row | speed.row(seconds, waited, worked) | probe.row())
            profile.end(step)
            saves = step == total or bool(self.config.checkpoint.every and step % self.config.checkpoint.every == 0)
            if saves or step == first:
                guard.check_parameters(step, self.setup.model)
            if state["evaluation_due"]:
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
        self.saver.save(self.state["step"], self.setup.model, self.setup.optimizer, self.state, self.yaml)

    def _stream(self) -> Generator[list[Batch], None, None]:
        t, world = self.config.trainer, self.setup.world
        shape = {"global_batch": t.global_batch, "micro_batch": t.micro_batch, "rank": world.rank, "world": world.size}
        origin, pinned = self.state["origin_sequence"], world.device.type == "cuda"
        return self.setup.train.stream(self.state["step"], **shape, origin=origin, pinned=pinned)

    def _evaluate(self) -> HeldOut:
        found = self.stage.evaluate()
        report_evaluation(found, self.state, self.logger)
        self.state["evaluation_due"] = False
        return found

    def _meet(self, micro_batches: Sequence[Batch], together: float) -> tuple[int, list[float]]:
        """Targets of all ranks, and the seconds that each worked since they were `together`.

        Raises Preempted, on every rank, if one was asked to leave.
        """
        ranks = self.setup.world.gather(count_targets(micro_batches), time.perf_counter() - together, warned())
        if any(asked for *_, asked in ranks):
            raise Preempted
        return int(sum(targets for targets, *_ in ranks)), [seconds for _, seconds, _ in ranks]

    def _step(self, step: int, micro_batches: Sequence[Batch], valid: int, guard: Guard, probe: Probe) -> dict[str, float]:
        """Gradients of the loss over the `valid` targets of all ranks, then the update; the values of the step's row."""
        o, world, model, optimizer = self.config.optim, self.setup.world, self.setup.model, self.setup.optimizer
        lr = learning_rate(
            step, peak=o.lr, end=o.lr_end, warmup=o.warmup_steps, total=self.state["schedule_steps"], shape=o.schedule
        )
        set_learning_rate(optimizer, lr)
        torch.manual_seed((world.rank * SEEDS + self.config.run.seed) * STEPS + step)  # for dropout
        meter, observe = self.stage.meter(), probe.begin(step)
        with self.setup.working():
            chosen = torch.stack([self.stage.backward(batch, meter, valid, step, observe) for batch in micro_batches]).sum(0)
        routers = [p for path, p in model.named_parameters() if "router" in path]
        norms = torch.stack([gradient_norm(p, world.device) for p in (routers, model.parameters())])
        summed = world.sum(torch.cat([meter.sums.flatten(), chosen]))  # of losses and of all layers' routers in one piece
        *sums, router_norm, norm = torch.cat([summed, norms.double()]).tolist()  # waits for the device
        row: dict[str, float] = meter.named("train/", sums[: meter.sums.numel()])
        objection = guard.objection(step, row["train/loss"], norm)
        probe.before_update()
        if objection is None:
            clip_grads_with_norm_(model.parameters(), o.grad_clip, norms[1])
            optimizer.step()
        else:
            self.logger.message(objection)
        optimizer.zero_grad(set_to_none=True)
        row |= {"train/grad_norm": norm, "train/lr": lr, "train/skipped": int(objection is not None)}
        row |= {"train/router_grad_norm": router_norm} if model.routes else {}
        return row | chosen_shares(sums[meter.sums.numel() :], model.modality_names)

    def _count(self, step: int, seconds: float, guard: Guard, *, due: bool) -> None:
        """Advance the state by the step that was made; `due`: an evaluation is."""
        state, sequences, budget = self.state, self.config.trainer.global_batch, self.setup.plan.budget
        of = {m: state["tokens_of"][m] + sequences * n for m, n in zip(state["tokens_of"], budget, strict=True)}
        tokens = state["tokens"] + sequences * self.config.data.sequence_length
        state.update(step=step, sequences=state["sequences"] + sequences, tokens=tokens, tokens_of=of)
        state.update(flops=state["flops"] + self.stage.flops(step), seconds=state["seconds"] + seconds)
        state.update(guard=guard.state(), evaluation_due=due)
