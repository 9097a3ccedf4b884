"""Where a warning can strike: `at(PHASE)` patches the run so that this process gets SIGUSR1 there, once, or Ctrl-C.

As a plugin of a run in a process of its own: plugins=[tests.launch.phases] and WARN=PHASE in the environment; WARN_RANK: that
rank alone (all, if not given); WARN_BY: SIGUSR1, SIGINT, or `twice` for a second Ctrl-C, after which it is held up.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from momafuse import preemption

STEP = 3  # of the warning, where there are steps


def warn(by: str = "SIGUSR1") -> None:
    if by == "SIGUSR1":
        os.kill(os.getpid(), signal.SIGUSR1)
        return
    os.kill(os.getpid(), signal.SIGINT)
    while not preemption.asked():  # a thread takes note of it
        time.sleep(0.01)
    if by == "twice":
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)


def nth(real: Callable[..., Any], number: int, by: str = "SIGUSR1") -> Callable[..., Any]:
    """`real`, with a warning before its call `number`."""
    calls = 0

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            warn(by)
        return real(*args, **kwargs)

    return watched


def at(phase: str, patch: Callable[[Any, str, Any], None] = setattr, by: str = "SIGUSR1") -> None:
    """Phases: start, dry_step, training (step 3), later (4), evaluation (its second micro-batch), saving (in its thread),
    finish."""
    from momafuse.checkpoint import saving
    from momafuse.training import held_out, language, loop, pretraining

    module, name, number = {
        "start": (loop, "open_run", 1),
        "dry_step": (loop, "dry_step", 1),
        "training": (language, "count_targets", STEP),
        "later": (language, "count_targets", STEP + 1),
        "evaluation": (held_out, "held_out_batch", 2),
        "saving": (saving, "dcp_save", 1),
        "finish": (pretraining, "finish", 1),
    }[phase]
    patch(module, name, nth(getattr(module, name), number, by))


if (phase := os.environ.get("WARN")) and os.environ.get("WARN_RANK", os.environ.get("RANK")) == os.environ.get("RANK"):
    at(phase, by=os.environ.get("WARN_BY", "SIGUSR1"))
