"""`python -m momafuse.launch +experiment=moma_4t4i launch.nodes=8`: submit what train would run as one Slurm job.

The job runs a copy of the code and configs as they are now, in the folder of the command. `-m` makes an array of jobs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from momafuse.config.compose import Job, compose
from momafuse.config.entry import entry_point, write
from momafuse.config.launch import LaunchConfig
from momafuse.config.shares import fitted
from momafuse.config.validate import check_run_root
from momafuse.errors import UserError

OWN = re.compile(r"(\+\+|\+|~)?(launch\.|cluster\b)")  # words that are the job's, not the run's


def check(config: LaunchConfig) -> None:
    """Raises UserError for what would fail only when the job starts."""
    launch = config.launch
    for key in ("nodes", "gpus_per_node", "warning"):
        least = 0 if key == "gpus_per_node" else 1
        if getattr(launch, key) < least:
            raise UserError(f"launch.{key}={getattr(launch, key)}: must be at least {least}")
    check_run_root(config)
    fitted(config, launch.ranks)
    if launch.ranks % config.trainer.replicas:
        raise UserError(f"trainer.replicas={config.trainer.replicas}: must divide the {launch.ranks} ranks of this job")


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


def submit(script: Path) -> str:
    """The number of the job. Raises UserError, and removes the job's folder, where there is no Slurm or it refuses."""
    remedy = "launch.dry=true prints the script"
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True)
    except OSError as error:
        shutil.rmtree(script.parent)
        remedy = f"submit where Slurm is, or start with torchrun (docs/distributed.md); {remedy}"
        raise UserError(f"sbatch: cannot be run on this machine ({error.strerror}); {remedy}") from None
    if done.returncode:
        shutil.rmtree(script.parent)
        said = "; ".join(re.sub(r"^sbatch: (error: )?", "", line) for line in done.stderr.splitlines())
        raise UserError(f"sbatch: Slurm refuses the job: {said}; {remedy}")
    return done.stdout.strip().partition(";")[0]


if __name__ == "__main__":
    main()
