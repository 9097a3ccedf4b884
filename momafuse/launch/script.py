"""The batch script of a job: slurm/train.sbatch, with the lines between its marks replaced.

    # <options> ... # </options>    #SBATCH lines
    # <job> ... # </job>            shell variables: warning, code, python, step, words; the cluster's own lines before them

A sweep is an array: each task has its words. Paths are absolute, so the script does not depend on where it lies.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import momafuse
from momafuse.config.launch import ClusterConfig, LaunchSettings

Option = str | int | None


def template() -> str:
    """slurm/train.sbatch: inside the installed package, else at the top of the checkout."""
    package = Path(momafuse.__file__).resolve().parent
    found = [p for folder in (package, package.parent) if (p := folder / "slurm" / "train.sbatch").is_file()]
    assert found, f"no slurm/ beside {package}: the wheel was built without it"
    return found[0].read_text()


def render(name: str, folder: Path, launch: LaunchSettings, cluster: ClusterConfig, tasks: list[list[str]]) -> str:
    """The script of one job of `folder`, or with several `tasks` (the words of each for momafuse.train) of an array."""
    options: dict[str, Option] = {
        "job-name": name,
        "nodes": launch.nodes,
        "ntasks-per-node": max(1, launch.gpus_per_node),
        **({"gpus-per-node": launch.gpus_per_node} if launch.gpus_per_node else {}),
        "time": launch.time,
        "signal": f"B:USR1@{launch.warning}",
        **({"array": f"0-{len(tasks) - 1}"} if len(tasks) > 1 else {}),
        "output": str(folder / ("%A_%a.log" if len(tasks) > 1 else "%j.log")),
        **cluster.sbatch,  # last: a cluster may ask in another way
    }
    lines = [
        *cluster.setup,
        f"warning={launch.warning}",
        f"code={shlex.quote(str(folder / 'code'))}",
        f"python={shlex.quote(cluster.python or sys.executable)}",
        f"step=({shlex.join(_written(key, value) for key, value in cluster.srun.items())})",
        *_words(tasks),
    ]
    text = _replaced(template(), "options", [f"#SBATCH {_written(key, value, quoted=True)}" for key, value in options.items()])
    return _replaced(text, "job", lines)


def _words(tasks: list[list[str]]) -> list[str]:
    if len(tasks) == 1:
        return [f"words=({shlex.join(tasks[0])})"]
    cases = [f"    {number}) words=({shlex.join(words)}) ;;" for number, words in enumerate(tasks)]
    return ['case "$SLURM_ARRAY_TASK_ID" in', *cases, "esac"]


def _written(key: str, value: Option, *, quoted: bool = False) -> str:
    if value is None:
        return f"--{key}"
    return f"--{key}={shlex.quote(str(value)) if quoted else value}"


def _replaced(text: str, mark: str, lines: list[str]) -> str:
    pattern = rf"(?ms)^# <{mark}>\n.*?^# </{mark}>$"
    assert len(re.findall(pattern, text)) == 1, mark
    return re.sub(pattern, lambda _: "\n".join(lines), text)
