"""The three reports of a run together, and a real offline W&B run read back from its file."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from rich.console import Console

from momafuse.config.schema import LoggerConfig
from momafuse.reports import wandb_run
from momafuse.reports.logger import RunLogger
from momafuse.reports.metrics import Row, read_metrics
from tests.reports.wandb_file import records

OFFLINE = LoggerConfig(wandb="offline", project="momafuse-tests", entity=None, group="g", tags=["a", "b"])
DISABLED = dataclasses.replace(OFFLINE, wandb="disabled")


def open_logger(folder: Path, config: LoggerConfig, start_step: int = 0, out: io.StringIO | None = None) -> RunLogger:
    return RunLogger(
        folder,
        config,
        run_config_yaml="run:\n  seed: 3\noptim:\n  lr: 2e-3\n",
        total_steps=6,
        start_step=start_step,
        log_every=1,
        console=Console(file=out or io.StringIO()),
    )


def training_row(step: int) -> Row:
    losses = {"train/loss": step / 7, "train/loss_text": step / 3, "train/loss_image": 2.0}
    return {"step": step, "tokens": 64 * step, **losses, "perf/tokens_per_second": 100.5}


EVALUATION: Row = {"step": 3, "tokens": 192, "eval/loss_text": 1.25, "eval/loss_image": 2.5, "eval/routing": "training"}


def segments(folder: Path) -> list[Path]:
    """The .wandb files of a folder's offline runs; W&B's service writes their end after finish() returns."""
    paths = list((folder / "wandb").glob("offline-run-*/*.wandb"))
    until = time.monotonic() + 20
    while time.monotonic() < until and not all("exit" in kinds(path) for path in paths):
        time.sleep(0.05)
    return paths


def kinds(path: Path) -> list[str | None]:
    return [record.WhichOneof("record_type") for record in records(path)]


def history(path: Path) -> list[dict[str, Any]]:
    """The logged rows of a .wandb file, without W&B's own keys."""
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            assert items.pop("_step") == items["step"]
            rows.append({key: value for key, value in items.items() if not key.startswith("_")})
    return rows


def test_an_offline_wandb_run_holds_the_rows_of_metrics_jsonl(tmp_path: Path) -> None:
    folder = tmp_path / "moma_4t4i"
    folder.mkdir()
    with open_logger(folder, OFFLINE) as logger:
        for step in (1, 2, 3):
            logger.step(training_row(step))
        logger.evaluation(EVALUATION)
    time.sleep(1.1)  # W&B names a segment after the second it began in
    with open_logger(folder, OFFLINE, start_step=2) as logger:  # goes on from an earlier checkpoint
        for step in (3, 4):
            logger.step(training_row(step))

    assert read_metrics(folder / "metrics.jsonl") == [training_row(step) for step in (1, 2, 3, 4)]
    first, second = sorted(segments(folder), key=lambda path: len(history(path)), reverse=True)
    assert history(first) == [training_row(1), training_row(2), {**training_row(3), **EVALUATION}]
    assert history(second) == [training_row(3), training_row(4)]

    run_id = (folder / "wandb_id").read_text().strip()
    for path in (first, second):
        by_kind = {record.WhichOneof("record_type"): record for record in records(path)}
        run = by_kind["run"].run
        assert (run.run_id, run.project, run.display_name) == (run_id, "momafuse-tests", "moma_4t4i")
        assert (run.run_group, list(run.tags)) == ("g", ["a", "b"])
        config = {update.key: json.loads(update.value_json) for update in run.config.update}
        assert config["run"] == {"seed": 3}
        assert config["optim"] == {"lr": 0.002}
        metrics = [record.metric for record in records(path) if record.WhichOneof("record_type") == "metric"]
        assert [(metric.glob_name, metric.step_metric) for metric in metrics if metric.glob_name] == [("*", "step")]
        assert by_kind["exit"].exit.exit_code == 0


def test_an_error_in_training_is_the_runs_exit_code_and_the_rows_stay(tmp_path: Path) -> None:
    def train() -> None:
        with open_logger(tmp_path, OFFLINE) as logger:
            logger.step(training_row(1))
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        train()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    (path,) = segments(tmp_path)
    assert [record.exit.exit_code for record in records(path) if record.WhichOneof("record_type") == "exit"] == [1]


def test_disabled_wandb_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "init", None)  # not even called
    with open_logger(tmp_path, DISABLED) as logger:
        logger.step(training_row(1))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_wandb_that_does_not_start_is_said_once_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("no space left\nand a long explanation")

    monkeypatch.setattr(wandb, "init", fail)
    out = io.StringIO()
    with open_logger(tmp_path, OFFLINE, out=out) as logger:
        logger.step(training_row(1))
        logger.step(training_row(2))
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert [line for line in out.getvalue().splitlines() if "W&B" in line] == [
        "W&B does not start, the run goes on without it: no space left"
    ]


def test_an_online_run_that_cannot_log_in_is_recorded_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init, modes = wandb.init, []

    def fail_online(**arguments: Any) -> Any:
        modes.append((arguments["mode"], arguments["resume"]))
        if arguments["mode"] == "online":
            raise RuntimeError("no API key")
        return init(**arguments)

    monkeypatch.setattr(wandb, "init", fail_online)
    out = io.StringIO()
    with open_logger(tmp_path, dataclasses.replace(OFFLINE, wandb="online"), out=out) as logger:
        logger.step(training_row(1))
    assert modes == [("online", "allow"), ("offline", None)]
    assert "the run is recorded offline: no API key" in out.getvalue()
    assert history(segments(tmp_path)[0]) == [training_row(1)]


class Fragile:
    """Stands for a wandb.Run that breaks at step 2 and never finishes."""

    def __init__(self) -> None:
        self.logged: list[int] = []
        self.released = threading.Event()

    def log(self, row: dict[str, Any], step: int) -> None:
        if step == 2:
            raise BrokenPipeError("the service is gone")
        self.logged.append(step)

    def finish(self, exit_code: int) -> None:
        self.released.wait(30)


def test_a_wandb_that_breaks_is_said_once_and_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Fragile()
    monkeypatch.setattr(wandb_run, "_start", lambda *_: run)
    out = io.StringIO()
    with open_logger(tmp_path, OFFLINE, out=out) as logger:
        for step in (1, 2, 3, 4):
            logger.step(training_row(step))
    assert run.logged == [1]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4
    assert out.getvalue().count("W&B has stopped at step 2, the run goes on without it: the service is gone") == 1


def test_a_wandb_that_does_not_finish_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Fragile()
    monkeypatch.setattr(wandb_run, "_start", lambda *_: run)
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 0.1)
    out = io.StringIO()
    with open_logger(tmp_path, OFFLINE, out=out) as logger:
        logger.step(training_row(1))
    run.released.set()
    assert "W&B did not finish: still at work" in out.getvalue()
