"""What the user sees while a corpus is made: a live bar per source, or plain lines where the output is no terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

_SECONDS = 10.0  # between plain lines


class Progress:
    """Use as a context; `source` begins one, `advance` counts what a part holds."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (
            TextColumn("preparing {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
        )
        self._bars = Bars(*columns, console=self._console, disable=not self._console.is_terminal)
        self._name, self._done, self._last = "", 0, 0.0
        self._total: int | None = None
        self._begun, self._made, self._tokens, self._rejects = 0.0, 0, 0, 0

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def source(self, name: str, total: int | None, done: int) -> None:
        """`total` documents in all where it is known, of which `done` are there from an earlier run."""
        self._name, self._total, self._done, self._last = name, total, done, time.monotonic()
        self._begun, self._made, self._tokens, self._rejects = time.monotonic(), 0, 0, 0
        self._bars.add_task(name, total=total, completed=done, said="")
        going_on = f", going on after {done}" if done else ""
        self._line(f"preparing {name}: {'documents' if total is None else f'{total} documents'}{going_on}")

    def advance(self, documents: int, tokens: int = 0, rejects: int = 0) -> None:
        self._done += documents
        self._made += documents
        self._tokens += tokens
        self._rejects += rejects
        self._bars.update(self._bars.task_ids[-1], advance=documents, said=self._said())
        if time.monotonic() - self._last >= _SECONDS:
            self._last = time.monotonic()
            of = f" of {self._total}" if self._total else ""
            left = f"{self._left():.0f} s left" if self._total else ""
            self._line(", ".join(filter(None, [f"preparing {self._name}: {self._done}{of}", self._said(), left])))

    def say(self, line: str) -> None:
        """What the user should read, on a line of its own."""
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _said(self) -> str:
        rate = self._tokens / max(1e-9, time.monotonic() - self._begun)
        said = [f"{rate:,.0f} tokens/s"] * (self._tokens > 0) + [f"{self._rejects} rejected"] * (self._rejects > 0)
        return ", ".join(said)

    def _left(self) -> float:
        return (time.monotonic() - self._begun) / max(1, self._made) * max(0, (self._total or 0) - self._done)

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)
