"""`python -m momafuse.sweep sweep=iso_flops`: make a set of runs, or go on with it, and show how far each is."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point, write
from momafuse.config.sweep import SweepConfig, check_sweep
from momafuse.errors import UserError
from momafuse.preemption import listen
from momafuse.sweeping.making import exit_code, make
from momafuse.sweeping.plan import Plan, make_plan
from momafuse.sweeping.state import DONE, Entry, board
from momafuse.sweeping.stored import store

WIDTH = 120  # where the output is no terminal


@entry_point(
    "sweep",
    help="Train a set of runs, one after the other or with sweep.slurm=true as arrays of jobs. The same command again skips "
    "what is complete and goes on with the rest. Words that are not sweep's, launch's or cluster's go to every run.",
    schema=SweepConfig,
    check=check_sweep,
    together=True,
)
def main(jobs: list[Job[SweepConfig]]) -> None:
    if len(jobs) > 1:
        raise UserError("-m: a sweep is a set of runs already; write values into a sweep file of your own, or start several")
    (job,) = jobs
    s, user_dir = job.config.sweep, job.user_dir
    stored = None if s.stored is None else Path(s.stored).expanduser()
    plan = make_plan(job)
    entries = board(plan, None if s.store else stored)
    user_words = [] if user_dir is None else ["--config-dir", str(user_dir)]
    for note in plan.notes:
        print(note, file=sys.stderr)
    if s.store:
        assert stored is not None
        store_complete(entries, stored)
    elif s.slurm:
        from momafuse.sweeping.slurm import submit_sweep  # only here: it needs torch

        dry = s.dry or job.config.launch.dry
        submit_sweep(plan, entries, job.config, dry=dry, say=lambda line: write(f"{line}\n"))
    elif s.dry:
        for entry in entries:
            write(f"# {entry.run.name}: {entry.state}\n{shlex.join(['python', '-m', 'momafuse.train', *entry.run.words])}\n")
        write(comparison(plan, entries))
    else:
        run(plan, entries, user_words)


def run(plan: Plan, entries: list[Entry], user_words: list[str]) -> None:
    from rich.console import Console

    from momafuse.sweeping.table import view_of

    console = Console(highlight=False)
    with view_of(entries, console) as view:
        make(entries, user_words, view)
    if code := exit_code(entries):
        failed = [entry for entry in entries if entry.state == "failed"]
        for entry in failed:
            print(f"momafuse: error: {entry.run.name}: {entry.error} (all that it said: {entry.run.log})", file=sys.stderr)
        raise SystemExit(code)
    write(f"# all runs are complete\n{comparison(plan, entries)}")


def comparison(plan: Plan, entries: list[Entry]) -> str:
    """What to do next: the command line that compares the runs, where the baseline is one of them."""
    if plan.baseline is None:
        return ""
    folders = ",".join(str(entry.source) for entry in entries)
    return f"# then\n{shlex.join(['python', '-m', 'momafuse.compare', f'runs=[{folders}]', f'baseline={plan.baseline}'])}\n"


def store_complete(entries: list[Entry], stored: Path) -> None:
    sizes = store([entry.run for entry in entries if entry.state in DONE], stored)
    for name, size in sizes.items():
        write(f"{stored / name}: {size / 1e3:.0f} kB\n")
    there = sum((stored / entry.run.name).is_dir() for entry in entries)
    write(f"{stored}: {there} of {len(entries)} runs, {len(sizes)} of them new ({sum(sizes.values()) / 1e6:.2f} MB)\n")


if __name__ == "__main__":
    listen()
    main()
