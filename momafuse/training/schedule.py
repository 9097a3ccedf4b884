"""How long a run is, and its learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from typing import Literal

from momafuse.config.schema import Config, RunnableConfig
from momafuse.errors import UserError


def learning_rate(step: int, *, peak: float, end: float, warmup: int, total: int, shape: Literal["linear", "cosine"]) -> float:
    """The rate of optimizer step `step` (the first is 1): linear warm-up to `peak`, then down to `end` at `total`, then flat.

    linear: MoMa's schedule (arXiv 2407.21770, Table 5); cosine: half a period.
    """
    if step <= warmup:
        return peak * step / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    fall = done if shape == "linear" else 0.5 * (1 - math.cos(math.pi * done))
    return peak + (end - peak) * fall


def rate_of(config: RunnableConfig, step: int, total: int) -> float:
    """`learning_rate` of a run whose schedule has `total` steps."""
    o = config.optim
    return learning_rate(step, peak=o.lr, end=o.lr_end, warmup=o.warmup_steps, total=total, shape=o.schedule)


def capacity_factor(config: Config, step: int, experts: int) -> float:
    """That of `step`: in the first `upcycling.capacity_steps` of an upcycled run it falls from `experts`, where each of so
    many takes every row, to `router.capacity_factor`, in equal parts."""
    steps, end = config.upcycling.capacity_steps, config.router.capacity_factor
    if config.upcycle is None or not steps or step > steps:
        return end
    return experts + (end - experts) * max(0, step - 1) / steps


def more(config: RunnableConfig, steps: int) -> str:
    """The override that lets a complete run go on to twice its steps."""
    if not isinstance(config, Config) or config.trainer.max_tokens is None or steps == config.trainer.max_steps:
        return f"trainer.max_steps={2 * steps}"
    return f"trainer.max_tokens={2 * config.trainer.max_tokens}"


def planned_steps(config: Config) -> int:
    """The length of a run that starts now: its schedule's, which may lie behind `trainer.max_steps`."""
    return config.optim.schedule_steps or total_steps(config)


def stage_begins(config: Config) -> list[int]:
    """The global sequence that each of data.stages begins with, in a run that starts now: the first of a step.

    Raises UserError where a stage would have no step, or leave none to the one before.
    """
    steps, begins = planned_steps(config), [0]
    for number, stage in enumerate(config.data.stages):
        begin = round(stage.from_ * steps)
        if not begins[-1] < begin * config.trainer.global_batch or begin >= steps:
            before = "the stage before it" if number else "the weights that the run begins with"
            short = f"no step of {steps} is left to {'it' if begin >= steps else before}"
            raise UserError(f"data.stages[{number}].from={stage.from_}: {short}; take the stage out, or set more steps")
        begins.append(begin * config.trainer.global_batch)
    return begins[1:]


def total_steps(config: RunnableConfig) -> int:
    """`trainer.max_steps`, or fewer where `trainer.max_tokens` is reached before."""
    if not isinstance(config, Config) or config.trainer.max_tokens is None:
        return config.trainer.max_steps
    t = config.trainer
    assert t.max_tokens is not None
    return min(t.max_steps, math.ceil(t.max_tokens / (t.global_batch * config.data.sequence_length)))
