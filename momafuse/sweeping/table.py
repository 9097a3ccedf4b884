"""What a sweep shows: a table that is renewed on a terminal, a line for every change anywhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from momafuse.sweeping.making import View
from momafuse.sweeping.state import DONE, Entry, counted, saved_step

RENEWED = 1.0  # seconds between tables on a terminal
EVERY = 60.0  # seconds between lines on the run at work
AROUND = 4  # lines beside the rows of the table: its head, what is left out, the sum
STYLES = {"running": "bold", "failed": "red", "complete": "green", "stored": "green", "elsewhere": "yellow"}


@contextmanager
def view_of(entries: list[Entry], console: Console) -> Iterator[View]:
    """The table by itself after that, where it was live."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(entries, lambda line: console.print(Text(line), soft_wrap=True))
        return
    live = Live(console=console, auto_refresh=False, get_renderable=lambda: table(entries, console.height))
    with live:
        yield Shown(entries, live)


class Shown:
    def __init__(self, entries: list[Entry], live: Live) -> None:
        self._entries, self._live, self._last = entries, live, 0.0

    def began(self, entry: Entry) -> None:
        self._draw()

    def look(self) -> None:
        if time.monotonic() - self._last > RENEWED:
            self._draw()

    def ended(self, entry: Entry) -> None:
        entry.progress.look()
        self._draw()

    def _draw(self) -> None:
        self._last = time.monotonic()
        _read(self._entries)
        self._live.refresh()


class Lines:
    def __init__(self, entries: list[Entry], say: Callable[[str], None]) -> None:
        self._entries, self._say, self._last = entries, say, time.monotonic()

    def began(self, entry: Entry) -> None:
        saved = saved_step(entry.run)
        where = f"goes on after step {saved}" if saved else "begins"
        self._say(f"{entry.run.name}: {'is made by another process' if entry.state == 'elsewhere' else where}")
        self._last = time.monotonic()

    def look(self) -> None:
        _read(self._entries)
        if time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            for e in self._entries:
                if e.state in ("running", "elsewhere"):
                    self._say(f"{e.run.name}: step {e.progress.step}/{e.run.steps}  {_losses(e.progress.train)}".rstrip())

    def ended(self, entry: Entry) -> None:
        entry.progress.look()
        found = f"failed: {entry.error}" if entry.error else f"complete  held out: {_losses(entry.progress.held_out)}"
        self._say(f"{entry.run.name}: {found}  ({counted(self._entries)}{_left(self._entries)})")


def table(entries: list[Entry], height: int) -> Group:
    """At most `height` lines: of many runs those around the one at work."""
    modalities = entries[0].run.config.modalities
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("\nrun", no_wrap=True, ratio=None)
    shown.add_column("\nseed", justify="right")
    shown.add_column("\nstate", no_wrap=True, min_width=12)
    for title in ("train", "held out"):
        for number, name in enumerate(modalities):
            shown.add_column(f"{'' if number else title}\n{name}", justify="right", no_wrap=True)
    shown.add_column("\ntime", justify="right", no_wrap=True)
    shown.add_column("\nleft", justify="right", no_wrap=True)
    errors = [Text(f"{e.run.name}: {e.error}", "red", no_wrap=True, overflow="ellipsis") for e in entries if e.error]
    rows = max(1, height - AROUND - len(errors))
    first = _first_shown(entries, rows)
    for e in entries[first : first + rows]:
        shown.add_row(*_cells(e, modalities, entries), style=STYLES.get(e.state, "dim"))
    lines: list[Table | Text] = [shown]
    if (hidden := len(entries) - rows) > 0:
        lines.append(Text(f"and {hidden} more runs", style="dim"))
    return Group(*lines, *errors, Text(f"{counted(entries)}{_left(entries)}"))


def _cells(e: Entry, modalities: tuple[str, ...], entries: list[Entry]) -> list[str]:
    p = e.progress
    state = f"step {p.step}/{e.run.steps}" if e.state == "running" or (e.state == "waiting" and p.step) else e.state
    losses = [f"{found[m]:.3f}" if m in found else "" for found in (p.train, p.held_out) for m in modalities]
    left = "" if e.state in (*DONE, "failed") or (rest := _rest(e, entries)) is None else _span(rest)
    return [e.run.member, str(e.run.seed), state, *losses, _span(p.seconds) if p.seconds else "", left]


def _first_shown(entries: list[Entry], rows: int) -> int:
    """So that what is at work stands in the middle."""
    at = next((i for i, e in enumerate(entries) if e.state == "running"), None)
    if at is None:
        at = next((i for i, e in enumerate(entries) if e.state == "waiting"), len(entries))
    return max(0, min(at - rows // 2, len(entries) - rows))


def _rest(e: Entry, entries: list[Entry]) -> float | None:
    """Seconds, by the run's own speed, else by the mean of those of its kind that were made here."""
    kind = [e] if e.progress.step else [o for o in entries if (o.run.after is None) is (e.run.after is None)]
    steps = sum(o.progress.step for o in kind if o.state != "stored")
    seconds = sum(o.progress.seconds for o in kind if o.state != "stored")
    return (e.run.steps - e.progress.step) * seconds / steps if steps and seconds else None


def _left(entries: list[Entry]) -> str:
    rests = [_rest(e, entries) for e in entries if e.state in ("waiting", "running", "elsewhere")]
    known = [rest for rest in rests if rest is not None]
    if not known:
        return ""
    return f", {'at least ' if len(known) < len(rests) else 'about '}{_span(sum(known))} left"


def _span(seconds: float) -> str:
    """`48s`, `12m`, `3h05`."""
    if seconds < 100:
        return f"{seconds:.0f}s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes}m" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02}"


def _losses(losses: dict[str, float]) -> str:
    return "  ".join(f"{name} {loss:.3f}" for name, loss in sorted(losses.items(), reverse=True))


def _read(entries: list[Entry]) -> None:
    for e in entries:
        if e.state in ("running", "elsewhere"):
            e.progress.look()
