"""The runs of a sweep, one after the other, each a `python -m momafuse.train` of its own, as by hand.

A run that fails is noted and the next one begins. Ctrl-C, SIGTERM and SIGUSR1 reach the run at work, which saves; the sweep
leaves with it, by Preempted (75) or Interrupted (130). Killed at any moment it has lost nothing: the runs' folders say how
far each is, and the run at work goes on from its last checkpoint.

Sweeps on one file system share the runs out: each holds the lock of the run that it makes (Run.lock), passes over those that
another process makes, and in the end waits for them, to take over what was left. The run itself holds that lock too, so that
one that outlives its sweep is left alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from momafuse.files import locked
from momafuse.preemption import BY_HAND, BY_SIGNAL, INTERRUPTED, TRY_AGAIN, asked, heeding, leave_if
from momafuse.sweeping.state import DONE, Entry, counted, is_complete, is_written

POLL = 0.25  # seconds between looks at the run at work
PATIENCE = 1.0  # and at those of others
FIRST = "the run at work saves, then the sweep leaves; Ctrl-C again leaves at once, without saving"
LEFT = {TRY_AGAIN: BY_SIGNAL, -15: BY_SIGNAL, INTERRUPTED: BY_HAND, -2: BY_HAND}  # exit codes of a run that was told to leave


class View(Protocol):
    """Who is told."""

    def began(self, entry: Entry) -> None: ...
    def look(self) -> None: ...
    def ended(self, entry: Entry) -> None: ...


def make(entries: list[Entry], user_words: list[str], view: View) -> None:
    """Until none is waiting. Raises Preempted where the sweep, or a run, was told to leave; failures are in the entries."""
    with heeding(FIRST):
        _tidy(entries)
        while True:
            _look(entries)
            _pass_failures_on(entries, view)
            entry = next((e for e in entries if e.state == "waiting" and _may_begin(e, entries)), None)
            if entry is not None:
                _make(entry, user_words, view, entries)
            elif any(e.state == "elsewhere" for e in entries):
                time.sleep(PATIENCE)
                _look_elsewhere(entries, view)
            else:
                return


def _tidy(entries: list[Entry]) -> None:
    """A sweep that was killed when a run had just ended has left a lock that nobody holds."""
    for entry in entries:
        if entry.state == "complete" and entry.run.lock.exists():
            with locked(entry.run.lock, wait=False):
                pass


def exit_code(entries: list[Entry]) -> int:
    """0, or the worst of those of runs that failed: 1 for a bug, 2 for what can be mended."""
    codes = {entry.code for entry in entries if entry.state == "failed"}
    return 0 if not codes else 2 if codes == {2} else 1


def _look(entries: list[Entry], how: int = 0) -> None:
    leave_if(asked() or how, counted(entries))


def _may_begin(entry: Entry, entries: list[Entry]) -> bool:
    return entry.run.after is None or _state_of(entry.run.after, entries) in DONE


def _state_of(name: str, entries: list[Entry]) -> str:
    return next(e.state for e in entries if e.run.name == name)


def _pass_failures_on(entries: list[Entry], view: View) -> None:
    """Auxiliary routers of a run that failed cannot be trained."""
    for entry in entries:
        after = entry.run.after
        if entry.state == "waiting" and after is not None and _state_of(after, entries) == "failed":
            failed = next(e for e in entries if e.run.name == after)
            entry.state, entry.code, entry.error = "failed", failed.code, f"not begun: {after} failed"
            view.ended(entry)


def _look_elsewhere(entries: list[Entry], view: View) -> None:
    """What another process made is complete; what it left is waiting again."""
    for entry in entries:
        if entry.state == "elsewhere":
            with locked(entry.run.lock, wait=False) as free:
                if free and not is_written(entry.run):
                    entry.state = "complete" if is_complete(entry.run) else "waiting"
                    if entry.state == "complete":
                        view.ended(entry)
    view.look()


def _make(entry: Entry, user_words: list[str], view: View, entries: list[Entry]) -> None:
    run = entry.run
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(run.lock, wait=False, inherited=True) as mine:
        if not mine or is_written(run):
            entry.state = "elsewhere"
            view.began(entry)
        elif is_complete(run):  # another sweep was here meanwhile
            entry.state = "complete"
            view.ended(entry)
        else:
            _train(entry, user_words, view, entries)


def _train(entry: Entry, user_words: list[str], view: View, entries: list[Entry]) -> None:
    entry.state = "running"
    with entry.run.log.open("ab") as log:
        begin = log.tell()
        command = [sys.executable, "-m", "momafuse.train", *user_words, *entry.run.words]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, close_fds=False)
        try:
            view.began(entry)
            code = _follow(child, view)
        finally:
            if child.poll() is None:  # an error of ours
                child.terminate()
                child.wait()
    if code == 0 and is_complete(entry.run):
        entry.state = "complete"
    elif asked() or code in LEFT:
        entry.state = "waiting"
        _look(entries, LEFT.get(code, BY_SIGNAL))
    else:
        entry.state, entry.code = "failed", code
        entry.error = _said(entry.run.log, begin) or f"ended with exit code {code} and without a report"
        if code < 0:
            entry.error = f"killed by signal {-code}"
    view.ended(entry)


def _follow(child: subprocess.Popen[bytes], view: View) -> int:
    """The exit code. A run that was not told by a terminal is told by SIGTERM, which a Ctrl-C of its own outranks."""
    told = False
    while True:
        if asked() and not told:
            child.terminate()
            told = True
        try:
            return child.wait(POLL)
        except subprocess.TimeoutExpired:
            view.look()


def _said(log: Path, begin: int) -> str:
    """The last line of the log from there on."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("momafuse: error: ") if lines else ""
