"""Whether this process was asked to leave because its machine is wanted back: a signal sets a flag, and the work looks at it.

    SIGUSR1    Slurm's warning, which slurm/train.sbatch passes on to all ranks
    SIGTERM    the end is near: scancel, scontrol requeue, torchrun, a shell's kill

The handler only takes note, so that nothing is torn wherever it strikes. Who can leave in order looks: the training loop in
each step, evaluation in each micro-batch, preparing a corpus after each part, a start before what takes long. Ranks leave
together (World.leave_if_warned). Then `Preempted` ends the run with exit code 75 (EX_TEMPFAIL): start the same again.

Does not save (training/leaving.py), and does not requeue: the batch script does.
"""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
_received: list[int] = []


class Preempted(Exception):
    """The run leaves because it was asked to; the same command goes on from what is saved."""

    def __init__(self, what: str = "nothing new to save") -> None:
        super().__init__(what)

    def __str__(self) -> str:
        return f"asked to leave: {self.args[0]}; the same command goes on"


def listen() -> None:
    """Take note of the signals from now on, in the main thread."""
    for number in SIGNALS:
        signal.signal(number, _note)


def warned() -> bool:
    """Whether a signal has come."""
    return bool(_received)


def leave_if_warned() -> None:
    """Raises Preempted, in this process alone, if a signal has come."""
    if warned():
        raise Preempted


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)
