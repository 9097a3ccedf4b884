"""Where a warning can strike: `at(PHASE)` patches the run so that this process gets SIGUSR1 there, once.

As a plugin of a run in a process of its own: plugins=[tests.launch.phases] and WARN=PHASE in the environment; WARN_RANK: that
rank alone (all, if not given).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

STEP = 3  # of the warning, where there are steps


def warn() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def nth(real: Callable[..., Any], number: int) -> Callable[..., Any]:
    """`real`, with a warning before its call `number`."""
    calls = 0

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            warn()
        return real(*args, **kwargs)

    return watched


def at(phase: str, patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Phases: start, dry_step, training (step 3), evaluation (its second micro-batch), saving (in its thread), finish."""
    from momafuse.checkpoint import saving
    from momafuse.training import held_out, language, loop, pretraining

    module, name, number = {
        "start": (loop, "open_run", 1),
        "dry_step": (loop, "dry_step", 1),
        "training": (language, "count_targets", STEP),
        "evaluation": (held_out, "held_out_batch", 2),
        "saving": (saving, "dcp_save", 1),
        "finish": (pretraining, "finish", 1),
    }[phase]
    patch(module, name, nth(getattr(module, name), number))


if (phase := os.environ.get("WARN")) and os.environ.get("WARN_RANK", os.environ.get("RANK")) == os.environ.get("RANK"):
    at(phase)
