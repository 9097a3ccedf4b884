"""`python -m momafuse.launch +experiment=moma_4t4i launch.nodes=8`: submit what train would run as one Slurm job.

The job runs a copy of the code and configs as they are now, in the folder of the command. `-m` makes an array of jobs.
"""

from __future__ import annotations

import re

from momafuse.config.compose import Job, compose
from momafuse.config.entry import entry_point, write
from momafuse.config.launch import LaunchConfig
from momafuse.errors import UserError
from momafuse.launch.submission import check_job, submit

OWN = re.compile(r"(\+\+|\+|~)?(launch\.|cluster\b)")  # words that are the job's, not the run's


def check(config: LaunchConfig) -> None:
    """Raises UserError for what would fail only when the job starts."""
    check_job(config, config.launch)


@entry_point(
    "launch",
    help="Submit a training run to Slurm: one job, or with -m an array. It saves and goes on when it is pre-empted. "
    "launch.dry=true prints the script.",
    schema=LaunchConfig,
    check=check,
    together=True,
)
def main(jobs: list[Job[LaunchConfig]]) -> None:
    from momafuse.launch.folder import job_folder, make_job_folder  # after composing: a misspelt key should not wait for torch
    from momafuse.launch.script import render

    first = jobs[0]
    launch, cluster = first.config.launch, first.config.cluster
    if any((job.config.launch, job.config.cluster) != (launch, cluster) for job in jobs):
        raise UserError("-m: launch.* and cluster are of the whole array; sweep over what the runs train")
    runs = [compose(train_words(job), user_dir=job.user_dir) for job in jobs]
    name = str(runs[0].config.run.name) if len(runs) == 1 else f"sweep-{first.experiment or 'train'}"
    folder = job_folder(launch.root, name)
    user = ["--config-dir", str(folder / "user")] if first.user_dir else []
    script = render(name, folder, launch, cluster, [[*user, *train_words(job)] for job in jobs])
    if launch.dry:
        write(script)
        return
    number = submit(make_job_folder(folder, runs, script))
    log = folder / (f"{number}_TASK.log" if len(jobs) > 1 else f"{number}.log")
    write(f"job {number}\nlog {log}\n")


def train_words(job: Job[LaunchConfig]) -> list[str]:
    """The words of a job for momafuse.train."""
    return [word for word in job.overrides if not OWN.match(word)]


if __name__ == "__main__":
    main()
