"""Which runs of a plan are there: by their folders, and by the metrics that are stored of them. Writes nothing.

A run is complete when its report is of its last step, and a complete one is never touched. What cannot be gone on with is
refused here, before the first run begins.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Literal

from momafuse.config.compose import load_config
from momafuse.config.results import config_differences
from momafuse.errors import UserError
from momafuse.reports.metrics import read_report
from momafuse.sweeping.plan import Plan, Run
from momafuse.sweeping.progress import Progress
from momafuse.sweeping.stored import is_stored

State = Literal["waiting", "running", "elsewhere", "complete", "stored", "failed"]
DONE = ("complete", "stored")


class Entry:
    """A run and what became of it."""

    def __init__(self, run: Run, state: State, source: Path) -> None:
        self.run, self.state, self.source = run, state, source
        self.error = ""  # of a run that failed
        self.code = 0
        self.progress = Progress(source)
        self.progress.look()


def board(plan: Plan, stored: Path | None) -> list[Entry]:
    """An entry for every run. Raises UserError for a run that is there and is another one."""
    models = {run.name: run for run in plan.runs}
    for run in plan.runs:
        _refuse_another(run, models.get(run.after or ""))
    entries = [_entry(run, stored) for run in plan.runs]
    states = {entry.run.name: entry.state for entry in entries}
    for entry in entries:
        base = entry.run.after
        if entry.state == "waiting" and base is not None and states[base] == "stored":
            remedy = f"sweep.auxiliary=false leaves auxiliary routers out, without sweep.stored={stored} all is trained here"
            raise UserError(f"sweep.stored={stored}: has {base} and not {entry.run.name}, which needs its weights; {remedy}")
    return entries


def is_complete(run: Run) -> bool:
    return bool(read_report(run.folder).get("steps", 0) >= run.steps)


def is_written(run: Run) -> bool:
    """Whether a process writes the run folder now: one that outlived its sweep, or was started by hand."""
    try:
        with (run.folder / ".lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def counted(entries: list[Entry]) -> str:
    """`3 of 14 runs are complete`."""
    done = sum(entry.state in DONE for entry in entries)
    return f"{done} of {len(entries)} runs {'is' if done == 1 else 'are'} complete"


def saved_step(run: Run) -> int:
    """Of its newest checkpoint: what it would go on from; 0 without one. Metrics may be of later steps."""
    found = [int(path.parent.name.removeprefix("step_")) for path in run.folder.glob("checkpoints/step_*/complete.json")]
    return max(found, default=0)


def _entry(run: Run, stored: Path | None) -> Entry:
    if is_complete(run):
        return Entry(run, "complete", run.folder)
    if stored is not None and is_stored(run, stored):
        return Entry(run, "stored", stored / run.name)
    return Entry(run, "waiting", run.folder)


def _refuse_another(run: Run, model: Run | None) -> None:
    """`model`: the run that these auxiliary routers are of."""
    if (file := run.folder / "config.yaml").is_file() and (keys := config_differences(load_config(file), run.config)):
        remedy = "restore the values, or choose another sweep.root"
        raise UserError(f"{run.folder}: was trained with another {', '.join(keys)}; {remedy}")
    if model is not None and (learnt := _learnt_from(run)) is not None and learnt < model.steps:
        # the trainer would say that they are complete, of whatever step they learnt from
        raise UserError(f"{run.folder}: learnt from step {learnt} of {model.name}, which is to make {model.steps}; delete it")


def _learnt_from(run: Run) -> int | None:
    """The step of the checkpoint that auxiliary routers learnt from, where they have begun."""
    states = sorted(run.folder.glob("checkpoints/step_*/state.json"))
    teacher = json.loads(states[-1].read_text()).get("teacher") if states else None
    return None if teacher is None else int(Path(teacher).name.removeprefix("step_"))
