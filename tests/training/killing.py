"""`momafuse.train` with a rank that kills itself at a chosen moment of its first save of step DIE_STEP.

    DIE=RANK:MOMENT:STEP torchrun --nproc-per-node N -m tests.training.killing WORDS ...

Moments: `begin` (nothing written), `shards` (the shards of this rank are written, those of the others perhaps), `marker` (all
but the marker), `latest` (renamed, `latest` still names the one before), `old` (before older checkpoints go).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from momafuse import train
from momafuse.checkpoint import saving, store

MOMENTS = ("begin", "shards", "marker", "latest", "old")


def dying(function: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapped


def arm(moment: str, step: int) -> None:
    final, partial = store.step_name(step), f".{store.step_name(step)}.partial"

    def writes(path: Path, text: str) -> bool:
        if moment == "marker":
            return path.parent.name == partial and path.name == store.MARKER
        return moment == "latest" and path.name == store.LATEST and text == final

    saving.write_aside = dying(saving.write_aside, writes)
    saving.dcp_save = dying(
        saving.dcp_save, lambda *_, checkpoint_id, **__: moment == "begin" and checkpoint_id.name == partial
    )
    saving.described = dying(saving.described, lambda folder, _: moment == "shards" and folder.name == partial)
    saving.complete = dying(saving.complete, lambda root: moment == "old" and (root / final / store.MARKER).is_file())


if __name__ == "__main__":
    rank, moment, step = os.environ.get("DIE", "-1:begin:0").split(":")
    assert moment in MOMENTS
    if os.environ.get("RANK") == rank:
        arm(moment, int(step))
    train.main()
