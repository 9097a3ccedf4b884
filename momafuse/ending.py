"""How one of many processes ends when something goes wrong.

    momafuse: error: KEY=VALUE: ...              the same on all ranks; the main one says it; exit code 2
    momafuse: error (rank 3): KEY=VALUE: ...     on rank 3 alone; exit code 2
    [rank 3] Traceback ...                       a bug; exit code 1
    momafuse: rank 1: lost another rank (...)    a neighbour is gone or does not answer; exit code 1
    momafuse: asked to leave: ...                what is new is saved (preemption.py); exit code 75 on all ranks
    momafuse: interrupted: ...                   the same, by Ctrl-C; exit code 130

Ranks compare what they have to say through the store of their rendezvous, which torchrun keeps while they end. Before they
have joined, what is said by one process is not said again on the same host. torchrun gets the cause too
(TORCHELASTIC_ERROR_FILE), so that its summary names it. This module does not import torch, and ends no other process:
torchrun does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NoReturn, TypeVar

from momafuse.errors import RankError, mendable
from momafuse.preemption import BY_HAND, GO_ON, INTERRUPTED, STOPPED, Preempted, asked

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
USER_ERROR, BUG = 2, 1  # exit codes
GRACE = 3.0  # seconds: ranks do not fail at the same moment with the same mistake
POLL = 0.02  # seconds
POLITE = 1.0  # seconds that who lost a rank lives on, so that torchrun finds that rank first; and who keeps the store
GLOO = "gloo/transport/"  # in the text of what gloo raises, which has no class of its own


def ending(error: BaseException, store: Store | None, rank: int, size: int, *, shared: bool) -> RankError:
    """What this rank ends with after `error`, compared with the others; `shared`: all ranks are known to have it."""
    if isinstance(error, KeyboardInterrupt) or (asked() == BY_HAND and lost(error) is not None):  # the other by Ctrl-C, too
        return RankError("" if rank else STOPPED, INTERRUPTED)
    if isinstance(error, Preempted):
        return RankError("" if rank else f"momafuse: {error}", error.code)
    if (reason := lost(error)) is not None:
        return RankError(
            f"momafuse: rank {rank}: lost another rank ({_asked(lambda: _first(store), '') or reason}); {GO_ON}",
            BUG,
            delay=POLITE,
        )
    mistake = mendable(error)
    code = BUG if mistake is None else USER_ERROR
    line = mistake or traceback.format_exception_only(error)[-1].strip()
    delay = POLITE if _keeps_store(rank) else 0.0
    everywhere = shared or _asked(lambda: _everywhere(line, store, rank, size), False)
    if everywhere and rank:
        return RankError("", code)
    if mistake is not None:
        return RankError(f"momafuse: error{'' if everywhere else f' (rank {rank})'}: {line}", code, line, delay)
    return RankError(tagged(error, rank) + ("\nthe same on all ranks" if everywhere else ""), code, line, delay)


def lost(error: BaseException) -> str | None:
    """Why a collective failed, in one line, if it is the end of another rank that this error tells of."""
    at: BaseException | None = error
    while at is not None:
        text = str(at)
        if any(kind.__name__ == "DistError" for kind in type(at).__mro__) or GLOO in text:
            said = text[text.find(GLOO) :].partition("] ")[2] if GLOO in text else text
            return said.partition(". This is typically")[0].strip().partition("\n")[0][:200]
        at = at.__cause__ or at.__context__
    return None


def tagged(error: BaseException, rank: int) -> str:
    """The traceback, the rank before each line."""
    return textwrap.indent("".join(traceback.format_exception(error)).rstrip(), f"[rank {rank}] ", lambda line: True)


def first_to_say(line: str) -> bool:
    """Whether no other process of this host has claimed the line, for processes that have not joined."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file is None:
        return int(os.environ.get("LOCAL_RANK", 0)) == 0
    claim = Path(file).parents[1] / hashlib.sha256(line.encode()).hexdigest()[:16]  # a folder of this start, shared by the host
    with contextlib.suppress(OSError):
        claim.touch(exist_ok=False)
        return True
    return not claim.exists()


def leave(end: RankError) -> NoReturn:
    """Say it and be gone: taking process groups down in order would wait for ranks that are gone themselves."""
    if end.text:
        print(end.text, file=sys.stderr)
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if end.cause and file is not None:
        details = {"py_callstack": end.cause, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps({"message": {"message": end.cause, "extraInfo": details}}))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    time.sleep(end.delay)
    os._exit(end.code)


def _keeps_store(rank: int) -> bool:
    """Whether the others ask this process: without torchrun, whose agent keeps the store, it is gone with rank 0."""
    return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)


def _asked(question: Callable[[], T], silence: T) -> T:
    """What the store says, or `silence` where it does not answer: its machine may be cut off, and some calls wait for ever."""
    answer = [silence]
    thread = Thread(target=lambda: answer.append(question()), daemon=True)
    thread.start()
    thread.join(2 * GRACE)
    return answer[-1]


def _everywhere(line: str, store: Store | None, rank: int, size: int) -> bool:
    """Whether all ranks have this to say; those that have nothing to say are waited for in vain."""
    if store is None:
        return False
    with contextlib.suppress(RuntimeError):  # the store may be gone, or a rank does not answer
        store.compare_set("first", "", f"rank {rank}: {line}")
        store.set(f"ended/{rank}", line)
        keys, end = [f"ended/{other}" for other in range(size)], time.monotonic() + GRACE
        while not store.check(keys):
            if time.monotonic() > end:
                return False
            time.sleep(POLL)
        return all(said == line.encode() for said in store.multi_get(keys))
    return False


def _first(store: Store | None) -> str:
    """The first error that a rank told of; empty if none did."""
    with contextlib.suppress(RuntimeError):
        if store is not None and store.check(["first"]):
            return str(store.get("first").decode())
    return ""
