"""A plugin that hurts a run: HURT="RANK STEP KIND" raises, fails, kills or sends to sleep one rank at the begin of a step.

plugins=[tests.parallel.hurt]       HURT_LOG: a file that gets the time when it happens
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from momafuse.errors import UserError

RANK, STEP, KIND = os.environ.get("HURT", "-1 0 none").split()


def hurt() -> None:
    Path(os.environ["HURT_LOG"]).write_text(str(time.time()))
    if KIND == "bug":
        raise RuntimeError("planted")
    if KIND == "mistake":
        raise UserError("planted=1: on one rank alone; mend it")
    if KIND == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if KIND == "sleep":
        time.sleep(1000)


def at_step(real: Callable[..., None]) -> Callable[..., None]:
    """set_learning_rate is called once a step."""
    steps = 0

    def watched(*args: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == int(STEP):
            hurt()
        real(*args)

    return watched


if os.environ.get("RANK") == RANK:
    from momafuse.training import stage

    stage.set_learning_rate = at_step(stage.set_learning_rate)
