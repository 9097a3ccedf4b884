"""The run folder: whether a command starts a run, goes on with one, or finds it complete.

    ROOT/NAME/  config.yaml  revision.txt  metrics.jsonl  router.jsonl  report.json  checkpoints/  plots/  samples/  wandb/

A folder whose config differs in anything that changes results is refused; a new run that starts from the checkpoint of
another (`resume=PATH`) must agree with it in architecture, data and seed; one that is made from another model
(`upcycle=PATH`) in less (seed.py). Does not read or write weights (checkpoint/).
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import momafuse
from momafuse.checkpoint import store
from momafuse.config.compose import load_config
from momafuse.config.results import config_differences
from momafuse.config.schema import Config, RunnableConfig
from momafuse.errors import UserError
from momafuse.files import write_aside
from momafuse.reports.metrics import read_report
from momafuse.training.schedule import more, total_steps
from momafuse.training.seed import Seed, find_seed

REVISION = "revision.txt"  # in a run folder; and beside a copy of the package (launch/folder.py)
SAME_MODEL = ("model.", "router.", "data.", "tokenizer.", "run.seed", "upcycl")  # what a checkpoint of another run must share


@dataclass(frozen=True)
class RunFolder:
    path: Path
    checkpoint: Path | None  # what to go on from
    state: dict[str, Any] | None  # its JSON state
    origin: str | None  # the other run that this one started from
    seed: Seed | None = None  # what a run at step 0 is upcycled from

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def complete(self, steps: int) -> bool:
        """Whether the run has made `steps` steps and reported on its last one."""
        if self.state is None or self.state["step"] < steps:
            return False
        return bool(read_report(self.path).get("steps") == self.state["step"])


def run_path(config: RunnableConfig) -> Path:
    """ROOT/NAME; the name is resolved by the entry point."""
    assert config.run.name is not None
    return Path(config.run.root) / config.run.name


def open_run(config: RunnableConfig) -> RunFolder:
    """Find what to go on from, and refuse what does not fit; changes nothing on disk. Raises UserError."""
    path = run_path(config)
    newest = store.latest(path / "checkpoints")
    for stored in [path / "config.yaml", *([newest / "config.yaml"] if newest else [])]:
        if stored.is_file():
            _refuse_differences(path, config_differences(load_config(stored, type(config)), config))
    if config.resume == "none" and newest is not None:
        raise UserError(f"resume=none: {path} has checkpoints; delete the folder or choose another run.name")
    origin = None if config.resume in ("auto", "none") else str(Path(config.resume).resolve())
    if origin is not None and newest is None:
        newest = store.find(Path(config.resume))
        differences = config_differences(load_config(newest / "config.yaml", type(config)), config)
        _refuse_differences(newest, [key for key in differences if key.startswith(SAME_MODEL)])
        state = store.read_state(newest)
        if state["step"] >= total_steps(config):
            raise UserError(f"resume={config.resume}: is at step {state['step']}; for more: {more(config, state['step'])}")
        return RunFolder(path, newest, state, origin)
    if newest is None:
        return RunFolder(path, None, None, None, find_seed(config) if isinstance(config, Config) else None)
    state = store.read_state(newest)
    if origin is not None and state["origin"] != origin:
        raise UserError(
            f"resume={config.resume}: {path} has checkpoints of its own; choose another run.name or leave resume out"
        )
    return RunFolder(path, newest, state, state["origin"])


def make_folder(path: Path) -> None:
    """Raises UserError where the file system refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); choose another run.root") from error


def start_run(folder: RunFolder, yaml: str) -> None:
    """Write what a run starts with: the resolved config and the revision of the code. An older report goes."""
    (folder.path / "report.json").unlink(missing_ok=True)
    write_aside(folder.path / "config.yaml", yaml)
    write_aside(folder.path / REVISION, revision() + "\n")


def revision() -> str:
    """The version, and in a checkout the commit, with `+changes` if files differ from it; of a copy, that of the original."""
    root = Path(momafuse.__file__).resolve().parent.parent
    if (root / REVISION).is_file():
        return (root / REVISION).read_text().strip()
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return momafuse.__version__
    return f"{momafuse.__version__} {commit}"


def _refuse_differences(path: Path, keys: list[str]) -> None:
    if keys:
        names = ", ".join(keys)
        raise UserError(f"{path}: was trained with another {names}; choose another run.name or restore the values")
