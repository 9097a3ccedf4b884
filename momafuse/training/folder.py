"""The run folder: whether a command starts a run, goes on with one, or finds it complete.

    ROOT/NAME/  config.yaml  revision.txt  metrics.jsonl  report.json  checkpoints/  plots/  samples/  wandb/

A folder whose config differs in anything that changes results is refused. Does not read or write weights (checkpoint/).
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
from momafuse.config.schema import Config
from momafuse.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    path: Path
    checkpoint: Path | None  # what to go on from
    state: dict[str, Any] | None  # its JSON state

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


def run_path(config: Config) -> Path:
    """ROOT/NAME; the name is resolved by the entry point."""
    assert config.run.name is not None
    return Path(config.run.root) / config.run.name


def open_run(config: Config) -> RunFolder:
    """Find what to go on from, and refuse what does not fit; changes nothing on disk. Raises UserError."""
    path = run_path(config)
    stored = path / "config.yaml"
    if stored.is_file():
        _refuse_another_run(config, path, stored)
    newest = store.latest(path / "checkpoints")
    if config.resume == "none" and newest is not None:
        raise UserError(f"resume=none: {path} has checkpoints; delete the folder or choose another run.name")
    if newest is None and config.resume not in ("auto", "none"):
        newest = store.find(Path(config.resume))
        _refuse_another_run(config, newest, newest / "config.yaml")
    return RunFolder(path, newest, None if newest is None else store.read_state(newest))


def start_run(folder: RunFolder, yaml: str) -> None:
    """Make the folder and write what it starts with: the resolved config and the revision of the code."""
    folder.path.mkdir(parents=True, exist_ok=True)
    store.write_aside(folder.path / "config.yaml", yaml)
    store.write_aside(folder.path / "revision.txt", revision() + "\n")


def revision() -> str:
    """The version, and in a checkout the commit, with `+changes` if files differ from it."""
    root = Path(momafuse.__file__).resolve().parent.parent
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return momafuse.__version__
    return f"{momafuse.__version__} {commit}"


def _refuse_another_run(config: Config, path: Path, stored: Path) -> None:
    keys = config_differences(load_config(stored), config)
    if keys:
        raise UserError(f"{path}: was trained with another {', '.join(keys)}; choose another run.name or restore the values")
