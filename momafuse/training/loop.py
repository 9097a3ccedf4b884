"""A run, as one page: open its folder, make its stage, make the steps (steps.py), report.

One process, or one of many under torchrun (world.py). A step is `global_batch` consecutive items in micro-batches, shared
out among the ranks; the loss is normalised by what the whole step weighs. Everything random is a function of (seed,
step): a run that was killed and goes on from its last checkpoint makes the same losses to the last digit at the same layout
(ranks, micro-batch), and sees the same items at any. Saved state: step, seconds, seed, layout, machine, the length of the
schedule, what the guard counts (guard.py), whether an evaluation is due, and what the stage counts (language.py, tokenizers/).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar

import torch

from momafuse.checkpoint import store
from momafuse.checkpoint.saving import Keep, Saver, tidy
from momafuse.config.compose import Job
from momafuse.config.schema import RunnableConfig
from momafuse.config.shares import fitted, in_place
from momafuse.errors import UserError
from momafuse.files import only_writer
from momafuse.parallel.machine import machine
from momafuse.parallel.precision import resolve_device
from momafuse.reports.logger import Logger, RunLogger, Silence
from momafuse.training.dry import dry_step, explained
from momafuse.training.folder import RunFolder, make_folder, open_run, start_run
from momafuse.training.leaving import saved_before_leaving
from momafuse.training.schedule import more, total_steps
from momafuse.training.stage import Stage
from momafuse.training.step import collecting
from momafuse.training.steps import Steps
from momafuse.world import World, join

C = TypeVar("C", bound=RunnableConfig)
Made = Callable[[World, C, RunFolder], Stage[Any, Any]]  # the stage of a config, after what it reads was prepared


def run(job: Job[C], made: Made[C], say: Callable[[str], None] = print) -> None:
    """Run or go on with `run.root/run.name` until `trainer.max_steps`. Raises UserError for what a user can mend."""
    t = job.config.trainer
    with join(resolve_device(t.device), timeout=t.timeout, replicas=t.replicas) as world:
        run_in(world, job, made, say)


def run_in(world: World, asked: Job[C], made: Made[C], say: Callable[[str], None]) -> None:
    config, total = asked.config, total_steps(asked.config)
    folder = world.on_main(lambda: open_run(config))
    if folder.complete(total):
        if world.main:
            done = 0 if folder.state is None else folder.state["step"]
            say(f"{folder.path} is complete: {done} steps. For more: {more(config, done)}")
        return
    world.leave_if_warned()
    job = replace(asked, config=fitted(config, world.size))
    stage = made(world, job.config, folder)
    state = start_state(stage, folder, total)
    with ExitStack() as held_open:
        loggers: list[RunLogger] = []
        world.on_main(lambda: loggers.append(open_writing(job, folder, state, total, held_open)))
        logger: Logger = loggers[0] if world.main else Silence()
        keep = Keep(config.checkpoint.keep_last, config.checkpoint.keep_every)
        saver = held_open.enter_context(Saver(folder.checkpoints, keep, world))
        collect = held_open.enter_context(collecting())
        held_open.enter_context(explained(stage))
        introduce(stage, folder, state, logger, in_place(config, job.config, world.size))
        world.leave_if_warned()
        if config.trainer.dry_step:
            dry_step(stage)

        def renew(found: Any) -> None:
            world.on_main(lambda: stage.renew(job, folder.path, state, found, logger))

        steps = Steps(stage, job.yaml, folder, state, logger, saver, renew)
        with saved_before_leaving(saver, state, steps.save):
            if folder.seed is not None:
                stage.report(stage.evaluate(), state, logger)  # what the change of the model does to it
            found = steps.run(total, collect) or stage.evaluate()
        saver.wait()
        world.on_main(lambda: stage.finish(job, folder.path, state, found, logger))


def open_writing(job: Job[C], folder: RunFolder, state: dict[str, Any], total: int, held_open: ExitStack) -> RunLogger:
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


def start_state(stage: Stage[Any, Any], folder: RunFolder, total: int) -> dict[str, Any]:
    """The state to go on from, with the weights of its checkpoint loaded, or that of step 0.

    Raises UserError if the checkpoint was trained on other data than there is now.
    """
    config = stage.config
    facts = {"corpus": stage.data, "dtype": str(stage.dtype).removeprefix("torch."), "seed": config.run.seed}
    here = {"origin": folder.origin, "layout": layout(stage), "machine": machine(stage.world.device)}
    if folder.checkpoint is None or folder.state is None:
        counts = {"step": 0, "seconds": 0.0} | stage.first_state(folder.seed)
        return counts | {"schedule_steps": config.optim.schedule_steps or total} | facts | here
    if folder.state["corpus"] != facts["corpus"]:
        raise UserError(f"{folder.checkpoint}: was trained on other data than {stage.reads} holds now; bring it back")
    stage.check_state(folder.state)
    store.load(folder.checkpoint, stage.model, stage.optimizers, stage.world)
    asked = config.optim.schedule_steps  # of a run that starts from another; of any other it is what the state says
    return folder.state | here | ({} if asked is None else {"schedule_steps": asked})


def layout(stage: Stage[Any, Any]) -> dict[str, int]:
    """How the items of a step are shared out: it decides in which order sums are rounded, and what dropout draws."""
    t = stage.config.trainer
    return {"ranks": stage.world.size, "replicas": t.replicas, "micro_batch": t.micro_batch}


def introduce(stage: Stage[Any, Any], folder: RunFolder, state: dict[str, Any], logger: Logger, dealt: str) -> None:
    """What runs, in a few lines; `dealt`: what there is to say of the micro-batch, or nothing."""
    config, world = stage.config, stage.world
    start = f"going on from {folder.checkpoint}" if folder.checkpoint else "from step 0"
    logger.message(f"{folder.path}: {stage.name}, {stage.size() / 1e6:.1f}M parameters, {start}")
    dtype = str(stage.dtype).removeprefix("torch.")
    ranks = f"{world.size} ranks, " if world.mesh is not None else ""
    logger.message(f"{ranks}{world.device}, products in {dtype}, {torch.get_num_threads()} threads")
    if dealt:
        logger.message(dealt)
    schedule, total = state["schedule_steps"], total_steps(config)
    if schedule < total and state["step"]:
        logger.message(f"the schedule has {schedule} steps: after them the learning rate stays at {config.optim.lr_end:g}")
    if schedule > total and config.optim.schedule_steps is None:
        logger.message(f"the schedule has {schedule} steps, as at the first start; this run ends at {total}")
    if state["dtype"] != dtype:
        logger.message(f"the run began in {state['dtype']}: from here on its losses differ in the last digits")
    if folder.state is not None and (saved := folder.state["layout"]) != state["layout"]:
        then, now = (", ".join(f"{key}={n}" for key, n in one.items()) for one in (saved, state["layout"]))
        logger.message(f"saved at {then}; now {now}: the same {stage.item}s, losses equal but for rounding")
    for line in stage.introduction(state):
        logger.message(line)
