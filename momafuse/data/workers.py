"""Encodes chunks of documents and writes their parts, in as many processes as there are cores.

What takes a few seconds is done in this process, since starting others takes as long. With a GPU there is only this one, whose
threads read pictures. Which process makes a part, and when, changes no byte of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

from momafuse.data.encoding import Encoder
from momafuse.data.sources import Item
from momafuse.data.writer import Facts
from momafuse.errors import UserError

ALONE = 4.0  # seconds of work in this process before others are started
KILLED = "prepare.workers: a worker was killed, as is done where memory runs out; set fewer workers"
_encoder: list[Encoder | Exception] = []  # a worker's, or why it has none


@dataclass(frozen=True)
class Task:
    """A chunk and where its part belongs; the other arguments are those of Encoder.encode."""

    path: Path
    items: list[Item]
    variants: int
    filters: Mapping[str, int | float]
    marked: bool

    def run(self, encoder: Encoder) -> Facts:
        part = encoder.encode(self.items, self.variants, self.filters, marked=self.marked)
        part.save(self.path)
        return part.facts


class Workers:
    """Use as a context. `submit` gives a future of the part's facts; `ahead` tasks may be under way."""

    def __init__(self, encoder: Encoder, tokenizer: Mapping[str, str] | None, plugins: Sequence[str], count: int) -> None:
        """`tokenizer` None: others could not load the same encoder, so that all is done here."""
        self._encoder, self._tokenizer, self._plugins = encoder, tokenizer, list(plugins)
        self._count = count if tokenizer is not None and encoder.device == "cpu" else 1
        self._pool: ProcessPoolExecutor | None = None
        self._busy = 0.0  # seconds of work so far

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def ahead(self) -> int:
        return 2 * self._count if self._pool is not None else 0

    def submit(self, task: Task) -> Future[Facts]:
        if self._count > 1 and self._pool is None and self._busy > ALONE:
            context = multiprocessing.get_context("spawn")
            start = partial(_start, self._tokenizer or {}, self._plugins)
            self._pool = ProcessPoolExecutor(self._count, context, start)
        if self._pool is not None:
            try:
                with _unheard():  # a process may be started with any task
                    return self._pool.submit(_work, task)
            except BrokenProcessPool as error:
                raise UserError(KILLED) from error
        done: Future[Facts] = Future()
        begun = time.monotonic()
        done.set_result(task.run(self._encoder))
        self._busy += time.monotonic() - begun
        return done


def result(future: Future[Facts]) -> Facts:
    """Raises UserError where a worker was killed."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(KILLED) from error


def cores() -> int:
    """Those that this process may use: OMP_NUM_THREADS bounds them, as it does for torch."""
    bound = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(bound) if bound.isdigit() and int(bound) else len(os.sched_getaffinity(0))


@contextmanager
def _unheard() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C, which is their parent's business; it hears a moment later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(tokenizer: Mapping[str, str], plugins: Sequence[str]) -> None:
    """In a worker: one thread, Ctrl-C and warnings are the parent's business, and it ends with its parent, however that
    ended."""
    from momafuse.config.compose import import_plugins

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    try:
        import_plugins(plugins)
        _encoder.append(Encoder.load(tokenizer, threads=1))
    except Exception as error:  # told by the first task, since a worker that cannot start only breaks the pool
        _encoder.append(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _work(task: Task) -> Facts:
    (encoder,) = _encoder
    if isinstance(encoder, Exception):
        raise encoder
    return task.run(encoder)
