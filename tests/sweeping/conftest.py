from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from momafuse.config.compose import compose_jobs
from momafuse.config.sweep import SweepConfig, check_sweep
from momafuse.sweeping.plan import Plan, Run, make_plan
from tests.training.conftest import small_corpus, words  # noqa: F401 (a fixture)

MakePlan = Callable[..., Plan]


def planned(*typed: str, user_dir: Path | None = None) -> Plan:
    return make_plan(compose_jobs(list(typed), "sweep", SweepConfig, user_dir=user_dir, check=check_sweep)[0])


@pytest.fixture
def plan(run_root: Path) -> MakePlan:
    """The plan of a sweep whose runs lie in `run_root`."""

    def make(*typed: str, user_dir: Path | None = None) -> Plan:
        return planned(*typed, f"sweep.root={run_root}", user_dir=user_dir)

    return make


def pretend(run: Run, steps: int, *, complete: bool = True, folder: Path | None = None, speed: float = 1000.0) -> Path:
    """A run folder as a run leaves it after so many steps, without weights."""
    folder = folder or run.folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(run.job.yaml)
    rows = [
        {"step": n, "tokens": 1000 * n, "train/loss": 3.0, "train/loss_text": 3.25 - n / 100, "train/loss_image": 6.5 - n / 100}
        | {"perf/tokens_per_second": speed}
        for n in range(1, steps + 1)
    ]
    held_out = {
        "step": steps,
        "tokens": 1000 * steps,
        "eval/loss_text": 3.125,
        "eval/loss_image": 6.75,
        "eval/routing": "causal",
    }
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *[held_out] * complete]))
    (folder / "revision.txt").write_text("0.1.0\n")
    checkpoint = folder / "checkpoints" / f"step_{steps:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete.json").write_text("{}")
    origin = folder.resolve().parent / "other" / "checkpoints" / "step_00000003"
    (checkpoint / "state.json").write_text(json.dumps({"step": steps, "tokens": 1000 * steps, "origin": str(origin)}))
    if complete:
        (folder / "report.json").write_text(json.dumps({"steps": steps, "seconds": 1.5 * steps, "eval/loss_text": 3.125}))
    return folder
