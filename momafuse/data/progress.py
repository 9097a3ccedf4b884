"""What the user sees while a corpus is made: a live bar per source, or plain lines where the output is no terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

_SECONDS = 10.0  # between plain lines


class Progress:
    """Use as a context; `source` begins one, `advance` counts its documents."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (TextColumn("preparing {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=self._console, disable=not self._console.is_terminal)
        self._name, self._done, self._last = "", 0, 0.0
        self._total: int | None = None

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def source(self, name: str, total: int | None, done: int) -> None:
        """`total` documents in all where it is known, of which `done` are there from an earlier run."""
        self._name, self._total, self._done, self._last = name, total, done, time.monotonic()
        self._bars.add_task(name, total=total, completed=done)
        going_on = f", going on after {done}" if done else ""
        self._line(f"preparing {name}: {'documents' if total is None else f'{total} documents'}{going_on}")

    def advance(self, documents: int) -> None:
        self._done += documents
        self._bars.advance(self._bars.task_ids[-1], documents)
        if time.monotonic() - self._last >= _SECONDS:
            self._last = time.monotonic()
            self._line(f"preparing {self._name}: {self._done}" + (f" of {self._total}" if self._total else ""))

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)
