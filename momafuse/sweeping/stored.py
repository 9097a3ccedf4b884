"""Runs as metrics: what a complete run leaves behind in a repository, and whether it is the run that is asked for.

    FOLDER/NAME/  config.yaml  metrics.jsonl  report.json  revision.txt  state.json of the last checkpoint

What `compare` reads. No weights, and of absolute paths their last part alone, so that nothing tells of the machine and runs of
two machines compare.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from momafuse.config.compose import load_config
from momafuse.config.convert import convert, plain
from momafuse.config.results import config_differences
from momafuse.config.schema import Config
from momafuse.errors import UserError
from momafuse.reports.metrics import read_report
from momafuse.sweeping.plan import Run

FILES = ("metrics.jsonl", "report.json", "revision.txt")  # as they are
STATE = "state.json"


def is_stored(run: Run, stored: Path | None) -> bool:
    """Raises UserError where another run is stored under its name."""
    if stored is None or not (stored / run.name / "config.yaml").is_file():
        return False
    folder = stored / run.name
    differences = config_differences(portable(load_config(folder / "config.yaml")), portable(run.config))
    steps = read_report(folder).get("steps")
    if steps != run.steps:
        differences = [*differences, f"trainer.max_steps (it has {steps} steps, not {run.steps})"]
    if differences:
        remedy = f"restore the value, or take {folder} away to train it again"
        raise UserError(f"sweep.stored={stored}: {run.name} was trained with another {', '.join(differences)}; {remedy}")
    return True


def store(runs: Sequence[Run], stored: Path) -> dict[str, int]:
    """Copy these complete runs that are not stored yet; -> bytes of each. Raises UserError where another one is."""
    from momafuse.checkpoint.store import find  # torch comes with it, which a plan of runs need not wait for

    sizes: dict[str, int] = {}
    for run in runs:
        if is_stored(run, stored):
            continue
        aside = stored / f".{run.name}.aside"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        config = portable(load_config(run.folder / "config.yaml"))
        (aside / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(plain(config))))
        for name in FILES:
            shutil.copyfile(run.folder / name, aside / name)
        state = json.loads((find(run.folder, "run") / STATE).read_text())
        (aside / STATE).write_text(json.dumps(_portable(state), indent=1))
        sizes[run.name] = sum(file.stat().st_size for file in aside.iterdir())
        aside.rename(stored / run.name)
    return sizes


def portable(config: Config) -> Config:
    """With the last part alone of every absolute path."""
    return convert(Config, _portable(plain(config)))


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner) for inner in value]
    is_absolute = isinstance(value, str) and (value.startswith("~/") or Path(value).is_absolute())
    if not is_absolute:
        return value
    parts = Path(value).parts  # of a checkpoint from its run's name on, which compare goes by
    return str(Path(*parts[-3:])) if parts[-2:-1] == ("checkpoints",) else parts[-1]
