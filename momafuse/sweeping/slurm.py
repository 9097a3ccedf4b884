"""A sweep as arrays of Slurm jobs: one of the runs that are not complete, one of the auxiliary routers that follow.

    first      a task a run; those that auxiliary routers follow come first
    followers  task i begins when task i of the first array is complete (aftercorr); where that fails they are taken away
    ready      auxiliary routers of runs that are complete already: no dependency

Each task is the job that `momafuse.launch` would make of the same words: it saves, is requeued and goes on by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from momafuse.config.sweep import SweepConfig
from momafuse.errors import UserError
from momafuse.launch.folder import job_folder, make_job_folder
from momafuse.launch.script import render
from momafuse.launch.submission import check_job, submit
from momafuse.sweeping.plan import Plan, Run
from momafuse.sweeping.state import DONE, Entry

NO_ORPHANS = {"kill-on-invalid-dep": "yes"}  # of a task whose run failed


def arrays(plan: Plan, entries: Sequence[Entry]) -> tuple[list[Run], list[Run], list[Run]]:
    """-> first, followers, ready."""
    pending = [entry.run for entry in entries if entry.state not in DONE]
    models = [run for run in pending if run.after is None]
    followers = [(run, after) for run in models if (after := plan.auxiliary_of(run)) in pending and after is not None]
    led = [run for run, _ in followers]
    names = {run.name for run in models}
    ready = [run for run in pending if run.after is not None and run.after not in names]
    return [*led, *(run for run in models if run not in led)], [after for _, after in followers], ready


def dependency(job: str, first: int, followers: int) -> str:
    """The option of the followers' array, which has no task numbers where it is of one."""
    if followers > 1:
        return f"aftercorr:{job}"
    return f"afterok:{job}_0" if first > 1 else f"afterok:{job}"


def submit_sweep(plan: Plan, entries: Sequence[Entry], config: SweepConfig, *, dry: bool, say: Callable[[str], None]) -> None:
    """Raises UserError where a run does not fit the job, and where Slurm refuses."""
    first, followers, ready = arrays(plan, entries)
    if not (first or ready):
        say(f"all {len(entries)} runs are complete")
    for run in (*first, *followers, *ready):
        try:
            check_job(run.config, config.launch)
        except UserError as error:
            own = "" if run.after is None else "; sweep.auxiliary_words=[..] are of these routers alone"
            raise UserError(f"{run.name}: {error}{own}") from error
    job = "JOB"
    for runs, suffix in ((first, ""), (followers, "-aux"), (ready, "-aux")):
        if runs:
            after = [f"--dependency={dependency(job, len(first), len(followers))}"] if runs is followers else []
            number = _one(f"sweep-{plan.name}{suffix}", runs, config, after, dry=dry, say=say)
            job = number if runs is first else job


def _one(name: str, runs: list[Run], config: SweepConfig, after: list[str], *, dry: bool, say: Callable[[str], None]) -> str:
    folder = job_folder(config.launch.root, name)
    user = ["--config-dir", str(folder / "user")] if runs[0].job.user_dir else []
    cluster = config.cluster
    if after:
        cluster = type(cluster)({**NO_ORPHANS, **cluster.sbatch}, cluster.srun, cluster.setup, cluster.python)
    script = render(name, folder, config.launch, cluster, [[*user, *run.words] for run in runs])
    if dry:
        say(f"# sbatch {' '.join([*after, str(folder / 'job.sbatch')])}\n{script}")
        return "JOB"
    number = submit(make_job_folder(folder, [run.job for run in runs], script), *after)
    log = folder / (f"{number}_TASK.log" if len(runs) > 1 else f"{number}.log")
    say(f"job {number}: {', '.join(run.name for run in runs)}\nlog {log}")
    return number
