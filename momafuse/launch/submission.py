"""What is checked before a job is submitted, and how a script is handed to Slurm."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from momafuse.config.launch import LaunchSettings
from momafuse.config.schema import Config
from momafuse.config.shares import fitted
from momafuse.config.validate import check_run_root
from momafuse.errors import UserError


def check_job(config: Config, launch: LaunchSettings) -> None:
    """Raises UserError for what would fail only when the job starts."""
    for key in ("nodes", "gpus_per_node", "warning"):
        least = 0 if key == "gpus_per_node" else 1
        if getattr(launch, key) < least:
            raise UserError(f"launch.{key}={getattr(launch, key)}: must be at least {least}")
    check_run_root(config)
    fitted(config, launch.ranks)
    if launch.ranks % config.trainer.replicas:
        raise UserError(f"trainer.replicas={config.trainer.replicas}: must divide the {launch.ranks} ranks of this job")


def submit(script: Path, *options: str) -> str:
    """The number of the job. Raises UserError, and removes the job's folder, where there is no Slurm or it refuses."""
    remedy = "launch.dry=true prints the script"
    try:
        done = subprocess.run(["sbatch", "--parsable", *options, str(script)], capture_output=True, text=True)
    except OSError as error:
        shutil.rmtree(script.parent)
        remedy = f"submit where Slurm is, or start with torchrun (docs/distributed.md); {remedy}"
        raise UserError(f"sbatch: cannot be run on this machine ({error.strerror}); {remedy}") from None
    if done.returncode:
        shutil.rmtree(script.parent)
        said = "; ".join(re.sub(r"^sbatch: (error: )?", "", line) for line in done.stderr.splitlines())
        raise UserError(f"sbatch: Slurm refuses the job: {said}; {remedy}")
    return done.stdout.strip().partition(";")[0]
