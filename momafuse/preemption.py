"""Whether this process was asked to leave: a signal sets a flag, and the work looks at it.

    SIGUSR1    Slurm's warning, which slurm/train.sbatch passes on to all ranks
    SIGTERM    the end is near: scancel, scontrol requeue, torchrun, a shell's kill
    SIGINT     Ctrl-C, where the work looks (`heeding`); anywhere else it ends the process at once, as it always does

Taking note is all that is done, so that nothing is torn wherever it strikes. Who can leave in order looks: the training loop in
each step, evaluation in each micro-batch, preparing a corpus after each part, a start before what takes long. Ranks leave
together (World.leave_if_warned). Then `Preempted` ends the run with exit code 75 (EX_TEMPFAIL), or `Interrupted` with 130:
start the same again. A second Ctrl-C leaves at once, whatever the main thread is at: a thread waits for it, which Python's own
handlers would let wait for the end of a backward pass.

torchrun hands a first Ctrl-C on to its ranks as SIGINT, and a second one as SIGTERM. Only programs `listen`: a notebook keeps
its own Ctrl-C. Does not save (training/leaving.py), and does not requeue: the batch script does.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
TRY_AGAIN, INTERRUPTED = 75, 130  # exit codes: EX_TEMPFAIL of sysexits.h; 128 + SIGINT, as shells have it
GO_ON = "the same command goes on from what is saved"
STOPPED = f"momafuse: interrupted; {GO_ON}"
BY_SIGNAL, BY_HAND = 1, 2  # what `asked` returns
MOMENT = 0.05  # seconds: `timeout -s INT` and some shells send two for one; no hand is as fast
SHOW_CURSOR = b"\x1b[?25h\n"  # which a live bar hides

_received: list[int] = []
_listening = False
_pressed = 0.0  # when Ctrl-C was, on the monotonic clock


class Preempted(Exception):
    """The run leaves because it was asked to; the same command goes on from what is saved."""

    code, because = TRY_AGAIN, "asked to leave"

    def __init__(self, what: str = "nothing new to save") -> None:
        super().__init__(what)

    def __str__(self) -> str:
        return f"{self.because}: {self.args[0]}; the same command goes on"


class Interrupted(Preempted):
    """It was asked by Ctrl-C."""

    code, because = INTERRUPTED, "interrupted"


def listen(signals: Sequence[int] = SIGNALS) -> None:
    """Take note of `signals` from now on, and of Ctrl-C within `heeding`; in the main thread of a program."""
    global _listening
    _listening = True
    for number in signals:
        signal.signal(number, _note)


@contextmanager
def heeding(first: str) -> Iterator[None]:
    """Within it a first Ctrl-C says `first` and is noted; a second one, then or later, ends the process at once, with code 130.

    Changes nothing where no program listens, or where Ctrl-C does not end this process: a shell's background jobs ignore it.
    """
    if not _listening or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    thread = threading.Thread(target=_wait, args=(ours, first), name="momafuse-interrupts", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)  # the system's handler writes there, whatever Python is at
    signal.signal(signal.SIGINT, _nothing)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _leave if signal.SIGINT in _received else signal.default_int_handler)
        signal.set_wakeup_fd(before)
        os.close(theirs)
        thread.join()
        os.close(ours)


def asked() -> int:
    """0: nobody has asked; else the largest of what ranks return is for `leave_if`."""
    return BY_HAND if signal.SIGINT in _received else BY_SIGNAL if _received else 0


def leave_if(asked: float, what: str = "nothing new to save") -> None:
    """Raises Interrupted or Preempted by what `asked` returned."""
    if asked:
        raise (Interrupted if asked == BY_HAND else Preempted)(what)


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)


def _nothing(number: int, frame: FrameType | None) -> None:
    """The thread has it."""


def _wait(pipe: int, first: str) -> None:
    while numbers := os.read(pipe, 64):  # one byte a signal; none when the pipe is closed
        for number in numbers:
            _heard(number, first)


def _heard(number: int, first: str) -> None:
    global _pressed
    if signal.SIGINT not in _received:
        if number == signal.SIGINT:
            _pressed = time.monotonic()
            _received.append(number)
            _say(f"momafuse: {first}")
    elif _is_second(number) and time.monotonic() - _pressed > MOMENT:
        _leave()


def _leave(*_: object) -> NoReturn:
    if os.isatty(1):
        os.write(1, SHOW_CURSOR)
    _say(STOPPED)
    os._exit(INTERRUPTED)


def _is_second(number: int) -> bool:
    return number == signal.SIGINT or (number == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ)


def _say(line: str) -> None:
    """By one rank; past Python's own buffers, which the main thread may be in the midst of."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{chr(10) if os.isatty(2) else ''}{line}\n".encode())  # a terminal has echoed ^C in the line
