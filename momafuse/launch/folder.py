"""The folder of a job: its script, the code and the config that it runs, its logs. What changes afterwards does not reach it.

ROOT/NAME-DATE-TIME/  job.sbatch  code/momafuse/ (with configs)  code/revision.txt  config-0.yaml ..  user/  JOB.log
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import momafuse
from momafuse.config.compose import Job, config_dir
from momafuse.errors import UserError
from momafuse.launch.script import template
from momafuse.training.folder import REVISION, revision


def job_folder(root: str, name: str) -> Path:
    """A path that is not there yet; makes nothing."""
    path = first = Path(root).absolute() / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def make_job_folder(folder: Path, jobs: Sequence[Job], script: str) -> Path:
    """Fill it; returns the path of the script. Raises UserError where the file system refuses, and leaves nothing."""
    package, code = Path(momafuse.__file__).resolve().parent, folder / "code"
    no_cache = shutil.ignore_patterns("__pycache__")
    try:
        shutil.copytree(package, code / "momafuse", ignore=no_cache)
        shutil.copytree(config_dir(), code / "momafuse" / "configs", dirs_exist_ok=True)
        (code / "momafuse" / "slurm").mkdir(exist_ok=True)
        (code / "momafuse" / "slurm" / "train.sbatch").write_text(template())
        (code / REVISION).write_text(revision() + "\n")
        if jobs[0].user_dir is not None:
            shutil.copytree(jobs[0].user_dir, folder / "user", ignore=no_cache)
        for number, job in enumerate(jobs):
            (folder / f"config-{number}.yaml").write_text(job.yaml)
        (folder / "job.sbatch").write_text(script)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"launch.root={folder.parent}: cannot be written ({error.strerror}); name another folder") from error
    return folder / "job.sbatch"
