"""The training loop, as one page: open the run, build, then step after step; evaluate, save, report.

One process, or one of many under torchrun (world.py). A step is `global_batch` consecutive sequences in micro-batches, shared
out among the ranks; the loss is normalised by the valid targets of the whole step. Everything random is a function of (seed,
step): a run that was killed and goes on from its last checkpoint makes the same losses to the last digit at the same layout
(ranks, micro-batch), and sees the same sequences at any. Saved state: step, sequences, FLOPs and tokens so far, the latter also
by modality, the sequence that step 1 began with, seconds, seed, layout, the length of the schedule, what the guard counts
(guard.py), of an upcycled run what it took over (seed.py), and whether an evaluation is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_

from momafuse.checkpoint import store
from momafuse.checkpoint.saving import Keep, Saver, tidy
from momafuse.config.compose import Job
from momafuse.config.schema import Config
from momafuse.data.corpus import Corpus
from momafuse.data.encoding import Encoder
from momafuse.data.prepare import open_or_prepare
from momafuse.errors import UserError
from momafuse.files import only_writer
from momafuse.parallel.precision import resolve_device
from momafuse.preemption import Preempted, warned
from momafuse.reports.logger import Logger, RunLogger, Silence
from momafuse.routing.statistics import chosen_shares
from momafuse.training.auxiliary import Auxiliaries, check_teacher, taught_by
from momafuse.training.dry import dry_step, explained
from momafuse.training.finish import report_evaluation
from momafuse.training.folder import RunFolder, make_folder, open_run, start_run
from momafuse.training.guard import Guard, gradient_norm
from momafuse.training.held_out import HeldOut
from momafuse.training.leaving import saved_before_leaving
from momafuse.training.losses import count_targets
from momafuse.training.optimizer import set_learning_rate
from momafuse.training.probe import Probe
from momafuse.training.profile import Profile
from momafuse.training.schedule import learning_rate, more, total_steps
from momafuse.training.seed import describe, take_over
from momafuse.training.setup import Setup, build, check_vocabulary
from momafuse.training.speed import Speed
from momafuse.training.stage import Pretraining, Stage
from momafuse.training.step import collecting
from momafuse.world import World, join

STEPS, SEEDS = 1 << 32, 1 << 20  # before the draws of one seed, or one rank, could meet those of the next


def train(job: Job, say: Callable[[str], None] = print) -> None:
    """Run or go on with `run.root/run.name` until `trainer.max_steps`. Raises UserError for what a user can mend."""
    t = job.config.trainer
    with join(resolve_device(t.device), timeout=t.timeout, replicas=t.replicas) as world:
        train_in(world, job, say)


def train_in(world: World, job: Job, say: Callable[[str], None]) -> None:
    config, total = job.config, total_steps(job.config)
    folder = world.on_main(lambda: open_run(config))
    if folder.complete(total):
        if world.main:
            say(f"{folder.path} is complete: {total} steps. For more: {more(config, total)}")
        return
    world.leave_if_warned()
    check_vocabulary(config, Encoder.load(config.tokenizer).vocabulary)  # before a long prepare
    corpus = world.main_first(lambda: open_or_prepare(config))
    setup = build(config, corpus, world)
    state = start_state(config, setup, corpus, folder, total)
    stage: Stage = (Auxiliaries if config.router.auxiliary else Pretraining)(config, setup, corpus)
    with ExitStack() as held_open:
        loggers: list[RunLogger] = []
        world.on_main(lambda: loggers.append(open_writing(job, folder, state, total, held_open)))
        logger: Logger = loggers[0] if world.main else Silence()
        keep = Keep(config.checkpoint.keep_last, config.checkpoint.keep_every)
        saver = held_open.enter_context(Saver(folder.checkpoints, keep, world))
        collect = held_open.enter_context(collecting())
        held_open.enter_context(explained(config, setup))
        introduce(config, setup, folder, state, logger)
        world.leave_if_warned()
        if config.trainer.dry_step:
            dry_step(config, setup, stage)
        with saved_before_leaving(
            saver, state, lambda: saver.save(state["step"], setup.model, setup.optimizer, state, job.yaml)
        ):
            if folder.seed is not None:
                report_evaluation(stage.evaluate(), state, logger)  # what the change of the model does to it
            held_out = run_steps(config, job.yaml, setup, stage, folder, state, logger, saver, total, collect)
            held_out = held_out or stage.evaluate()
        saver.wait()
        world.on_main(lambda: stage.finish(job, folder.path, state, held_out, logger))


def open_writing(job: Job, folder: RunFolder, state: dict[str, Any], total: int, held_open: ExitStack) -> RunLogger:
    """Make the run folder this process's to write, until `held_open` is closed. Raises UserError if another one has it."""
    make_folder(folder.path)
    held_open.enter_context(only_writer(folder.path))
    if folder.state is not None and store.latest(folder.checkpoints) not in (None, folder.checkpoint):
        raise UserError(f"{folder.path}: another process has just gone on with this run; start the command again")
    start_run(folder, job.yaml)
    mended = tidy(folder.checkpoints)
    logger = RunLogger(
        folder.path,
        job.config.logger,
        run_config_yaml=job.yaml,
        total_steps=total,
        start_step=state["step"],
        log_every=job.config.trainer.log_every,
    )
    held_open.enter_context(logger)
    for line in mended:
        logger.message(line)
    return logger


def start_state(config: Config, setup: Setup, corpus: Corpus, folder: RunFolder, total: int) -> dict[str, Any]:
    """The state to go on from, with the weights of its checkpoint loaded, or that of step 0.

    Raises UserError if the checkpoint was trained on other data than the corpus holds now.
    """
    facts = {"corpus": corpus.train.fingerprint, "dtype": str(setup.dtype).removeprefix("torch."), "seed": config.run.seed}
    here = {"origin": folder.origin, "layout": layout(config, setup)}
    if folder.checkpoint is None or folder.state is None:
        counts = {"sequences": 0, "tokens": 0, "tokens_of": dict.fromkeys(corpus.vocabulary.names, 0), "flops": 0.0}
        counts = counts | {"upcycled": None} if folder.seed is None else take_over(folder.seed, config, setup, corpus)
        counts |= {"step": 0, "origin_sequence": counts["sequences"], "seconds": 0.0}
        counts |= taught_by(config, setup, corpus.train.fingerprint) if config.router.auxiliary else {}
        return counts | {"schedule_steps": config.optim.schedule_steps or total} | facts | here
    if folder.state["corpus"] != facts["corpus"]:
        raise UserError(f"{folder.checkpoint}: was trained on another corpus than {corpus.path} holds now; bring it back")
    if config.router.auxiliary:
        check_teacher(config, folder.state)
    store.load(folder.checkpoint, setup.model, setup.optimizer, setup.world)
    return folder.state | here


def layout(config: Config, setup: Setup) -> dict[str, int]:
    """How the sequences of a step are shared out: it decides in which order sums are rounded, and what dropout draws."""
    t = config.trainer
    return {"ranks": setup.world.size, "replicas": t.replicas, "micro_batch": t.micro_batch}


def run_steps(
    config: Config,
    yaml: str,
    setup: Setup,
    stage: Stage,
    folder: RunFolder,
    state: dict[str, Any],
    logger: Logger,
    saver: Saver,
    total: int,
    collect: Callable[[int], None],
) -> HeldOut | None:
    """The steps themselves, from `state`, which they advance; returns the evaluation of the last if there was one."""
    t, o, world, held_out = config.trainer, config.optim, setup.world, None
    shape = {"global_batch": t.global_batch, "micro_batch": t.micro_batch, "rank": world.rank, "world": world.size}
    stream = setup.train.stream(state["step"], **shape, origin=state["origin_sequence"])
    guard = Guard(config, world, folder.checkpoints, state.get("guard"), saver.wait)

    def evaluated() -> HeldOut:
        found = stage.evaluate()
        report_evaluation(found, state, logger)
        state["evaluation_due"] = False
        return found

    if state.get("evaluation_due"):  # it was left in the midst of one
        held_out = evaluated()
    speed, probe = Speed(config, setup, saver), Probe(t.probe, setup, t.replicas)
    profile = Profile(t, folder.path, world, logger.message)
    first, together = state["step"] + 1, time.perf_counter()
    for step in range(first, total + 1):
        profile.begin(step)
        begin = time.perf_counter()
        micro_batches = next(stream)
        waited = time.perf_counter() - begin
        lr = learning_rate(
            step, peak=o.lr, end=o.lr_end, warmup=o.warmup_steps, total=state["schedule_steps"], shape=o.schedule
        )
        set_learning_rate(setup.optimizer, lr)
        torch.manual_seed((world.rank * SEEDS + config.run.seed) * STEPS + step)  # for dropout
        ranks = world.gather(count_targets(micro_batches), time.perf_counter() - together, warned())
        if any(asked for *_, asked in ranks):
            raise Preempted
        together = time.perf_counter()
        meter, valid = stage.meter(), int(sum(targets for targets, *_ in ranks))
        observe = probe.begin(step)
        chosen = torch.stack([stage.backward(batch, meter, valid, step, observe) for batch in micro_batches]).sum(0)
        routers = [p for path, p in setup.model.named_parameters() if "router" in path]
        norms = torch.stack([gradient_norm(p, world.device) for p in (routers, setup.model.parameters())])
        summed = world.sum(torch.cat([meter.sums.flatten(), chosen]))  # of losses and of all layers' routers in one piece
        *sums, router_norm, norm = torch.cat([summed, norms.double()]).tolist()  # waits for the device
        losses = meter.named("train/", sums[: meter.sums.numel()])
        objection = guard.objection(step, losses["train/loss"], norm)
        probe.before_update()
        if objection is None:
            clip_grads_with_norm_(setup.model.parameters(), o.grad_clip, norms[1])
            setup.optimizer.step()
        else:
            logger.message(objection)
        setup.optimizer.zero_grad(set_to_none=True)

        seconds = time.perf_counter() - begin
        of = {m: state["tokens_of"][m] + t.global_batch * n for m, n in zip(state["tokens_of"], setup.plan.budget, strict=True)}
        state.update(step=step, sequences=state["sequences"] + t.global_batch, tokens=state["tokens"] + speed.tokens)
        state.update(tokens_of=of)
        due = step == total or bool(t.eval_every and step % t.eval_every == 0)
        state.update(flops=state["flops"] + stage.flops(step), evaluation_due=due)
        state.update(seconds=state["seconds"] + seconds, guard=guard.state())
        row = {"step": step, "tokens": state["tokens"], "flops": state["flops"]} | losses
        row |= {"train/grad_norm": norm, "train/lr": lr, "train/skipped": int(objection is not None)}
        row |= {"train/router_grad_norm": router_norm} if setup.model.routes else {}
        row |= chosen_shares(sums[meter.sums.numel() :], setup.model.modality_names)
        logger.step(row | speed.row(seconds, waited, [own for _, own, _ in ranks]) | probe.row())
        profile.end(step)
        saves = step == total or (config.checkpoint.every and step % config.checkpoint.every == 0)
        if saves or step == first:
            guard.check_parameters(step, setup.model)
        if due:
            held_out = evaluated()
        if saves:
            saver.save(step, setup.model, setup.optimizer, state, yaml)
        collect(step)
    stream.close()
    return held_out


def introduce(config: Config, setup: Setup, folder: RunFolder, state: dict[str, Any], logger: Logger) -> None:
    """What runs, in a few lines."""
    parameters = sum(p.numel() for p in setup.model.parameters())
    start = f"going on from {folder.checkpoint}" if folder.checkpoint else "from step 0"
    logger.message(f"{folder.path}: {config.model.name}, {parameters / 1e6:.1f}M parameters, {start}")
    dtype = str(setup.dtype).removeprefix("torch.")
    world, mine = setup.world, config.trainer.global_batch // setup.world.size
    ranks = f"{world.size} ranks, " if world.mesh is not None else ""
    logger.message(f"{ranks}{world.device}, products in {dtype}, {torch.get_num_threads()} threads")
    if world.mesh is not None:
        own = " and ".join(f"{mine * n} {m}" for m, n in zip(setup.model.modality_names, setup.plan.budget, strict=True))
        logger.message(f"every rank takes {own} tokens on every step, by construction")
    if state["dtype"] != dtype:
        logger.message(f"the run began in {state['dtype']}: from here on its losses differ in the last digits")
    if folder.state is not None and (saved := folder.state["layout"]) != state["layout"]:
        then, now = (", ".join(f"{key}={n}" for key, n in one.items()) for one in (saved, state["layout"]))
        logger.message(f"saved at {then}; now {now}: the same sequences, losses equal but for rounding")
    if state["upcycled"] is not None:
        logger.message(describe(state))
    for share in setup.plan.shares():
        logger.message(str(share))
