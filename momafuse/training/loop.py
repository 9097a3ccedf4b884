"""A run, as one page: open its folder, build, make the steps (steps.py), report.

One process, or one of many under torchrun (world.py). A step is `global_batch` consecutive sequences in micro-batches, shared
out among the ranks; the loss is normalised by the valid targets of the whole step. Everything random is a function of (seed,
step): a run that was killed and goes on from its last checkpoint makes the same losses to the last digit at the same layout
(ranks, micro-batch), and sees the same sequences at any. Saved state: step, sequences, FLOPs and tokens so far, the latter also
by modality, the sequence that step 1 began with, seconds, seed, layout, the length of the schedule, what the guard counts
(guard.py), of an upcycled run what it took over (seed.py), and whether an evaluation is due.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from momafuse.checkpoint import store
from momafuse.checkpoint.saving import Keep, Saver, tidy
from momafuse.config.compose import Job
from momafuse.config.schema import Config
from momafuse.data.corpus import Corpus
from momafuse.data.encoding import Encoder
from momafuse.data.prepare import open_or_prepare
from momafuse.errors import UserError
from momafuse.files import only_writer
from momafuse.parallel.compilation import is_compiled
from momafuse.parallel.precision import resolve_device
from momafuse.reports.logger import Logger, RunLogger, Silence
from momafuse.training.auxiliary import Auxiliaries, check_teacher, taught_by
from momafuse.training.dry import dry_step, explained
from momafuse.training.finish import report_evaluation
from momafuse.training.folder import RunFolder, make_folder, open_run, start_run
from momafuse.training.held_out import HeldOut
from momafuse.training.leaving import saved_before_leaving
from momafuse.training.schedule import more, total_steps
from momafuse.training.seed import describe, take_over
from momafuse.training.setup import Setup, build, check_vocabulary
from momafuse.training.stage import Pretraining, Stage
from momafuse.training.step import collecting
from momafuse.training.steps import Steps
from momafuse.world import World, join


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
            done = 0 if folder.state is None else folder.state["step"]
            say(f"{folder.path} is complete: {done} steps. For more: {more(config, done)}")
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

        def renew(held_out: HeldOut) -> None:
            world.on_main(lambda: stage.renew(job, folder.path, state, held_out, logger))

        steps = Steps(config, job.yaml, setup, stage, folder, state, logger, saver, renew)
        with saved_before_leaving(saver, state, steps.save):
            if folder.seed is not None:
                report_evaluation(stage.evaluate(), state, logger)  # what the change of the model does to it
            held_out = steps.run(total, collect) or stage.evaluate()
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
    asked = config.optim.schedule_steps  # of a run that starts from another; of any other it is what the state says
    return folder.state | here | ({} if asked is None else {"schedule_steps": asked})


def layout(config: Config, setup: Setup) -> dict[str, int]:
    """How the sequences of a step are shared out: it decides in which order sums are rounded, and what dropout draws."""
    t = config.trainer
    return {"ranks": setup.world.size, "replicas": t.replicas, "micro_batch": t.micro_batch}


def introduce(config: Config, setup: Setup, folder: RunFolder, state: dict[str, Any], logger: Logger) -> None:
    """What runs, in a few lines."""
    parameters = sum(p.numel() for p in setup.model.parameters())
    start = f"going on from {folder.checkpoint}" if folder.checkpoint else "from step 0"
    logger.message(f"{folder.path}: {config.model.name}, {parameters / 1e6:.1f}M parameters, {start}")
    dtype = str(setup.dtype).removeprefix("torch.")
    world, mine = setup.world, config.trainer.global_batch // setup.world.size
    ranks = f"{world.size} ranks, " if world.mesh is not None else ""
    logger.message(f"{ranks}{world.device}, products in {dtype}, {torch.get_num_threads()} threads")
    if is_compiled(setup.model):
        logger.message("compiling the blocks: seconds to minutes before the first step, unless torch's cache has them")
    if world.mesh is not None:
        own = " and ".join(f"{mine * n} {m}" for m, n in zip(setup.model.modality_names, setup.plan.budget, strict=True))
        logger.message(f"every rank takes {own} tokens on every step, by construction")
    schedule, total = state["schedule_steps"], total_steps(config)
    if schedule < total and state["step"]:
        logger.message(f"the schedule has {schedule} steps: after them the learning rate stays at {config.optim.lr_end:g}")
    if schedule > total and config.optim.schedule_steps is None:
        logger.message(f"the schedule has {schedule} steps, as at the first start; this run ends at {total}")
    if state["dtype"] != dtype:
        logger.message(f"the run began in {state['dtype']}: from here on its losses differ in the last digits")
    if folder.state is not None and (saved := folder.state["layout"]) != state["layout"]:
        then, now = (", ".join(f"{key}={n}" for key, n in one.items()) for one in (saved, state["layout"]))
        logger.message(f"saved at {then}; now {now}: the same sequences, losses equal but for rounding")
    if state["upcycled"] is not None:
        logger.message(describe(state))
    for share in setup.plan.shares():
        logger.message(str(share))
