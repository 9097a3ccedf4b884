"""A sweep that is killed, told to leave, or not alone: it makes no run twice and loses none. Processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from momafuse.reports.metrics import read_metrics
from momafuse.training.folder import REVISION
from tests.launch.test_leaving import rows
from tests.training.conftest import words

TOP = Path(__file__).parents[2]
MINE = """
runs:
  dense: [+experiment=dense]
  moe_1t1i: [+experiment=moe_1t1i]
seeds: [0, 1]
auxiliary: true
baseline: dense
"""
FOUR = ("dense-0", "moe_1t1i-0", "dense-1", "moe_1t1i-1")
PATIENCE = 240  # seconds

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(small_corpus: Path, run_root: Path, tmp_path: Path) -> Iterator[Start]:
    """The command in a process group of its own, which ends with the test."""
    (tmp_path / "mine" / "sweep").mkdir(parents=True)
    (tmp_path / "mine" / "sweep" / "mine.yaml").write_text(MINE)
    started: list[subprocess.Popen[str]] = []

    def start_process(*more: str, steps: int = 6) -> subprocess.Popen[str]:
        own = [word for word in words(small_corpus, run_root) if not word.startswith("run.root=")]
        limits = [f"trainer.max_steps={steps}", "checkpoint.every=2", "trainer.eval_sequences=4", "trainer.dry_step=false"]
        command = ["sweep=mine", "--config-dir", str(tmp_path / "mine"), f"sweep.root={run_root}", *own, *limits, *more]
        with (run_root / "said.txt").open("a") as out:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "momafuse.sweep", *command],
                    cwd=TOP,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            )
        return started[-1]

    yield start_process
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """The sweep and the run at work, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def said(root: Path) -> str:
    return (root / "said.txt").read_text()


def steps(folder: Path) -> list[int]:
    return [int(row["step"]) for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row]


def made(root: Path, name: str, count: int) -> None:
    """Wait until the run has made so many steps."""
    end = time.monotonic() + PATIENCE
    while len(steps(root / name)) < count:
        assert time.monotonic() < end, said(root)
        time.sleep(0.02)


def is_whole(root: Path, names: tuple[str, ...] = FOUR, count: int = 6) -> None:
    """Every run has each of its steps once, and nothing else is there."""
    assert {folder.parent.name for folder in root.glob("*/config.yaml")} == set(names)
    for name in names:
        assert steps(root / name) == list(range(1, count + 1)), name
        assert json.loads((root / name / "report.json").read_text())["steps"] == count
        assert (root / name / REVISION).is_file()
    left = {path.name for path in root.iterdir()} - {*names, *(f"{name}.log" for name in names), "said.txt"}
    assert not left


def starts(root: Path, name: str) -> list[str]:
    """Where the processes of the run began."""
    return re.findall(r"parameters, (from step 0|going on from .*)$", (root / f"{name}.log").read_text(), re.MULTILINE)


def assert_once(root: Path) -> None:
    """No run was said to be complete twice, and none had a start after the one that made its last step."""
    complete = re.findall(r"^(\S+): complete ", said(root), re.MULTILINE)
    assert len(complete) == len(set(complete))
    for name in FOUR:
        if (log := root / f"{name}.log").is_file():
            assert len(re.findall(r"^run folder: ", log.read_text(), re.MULTILINE)) <= 1, name


def killed_at_random(start: Start, root: Path, seed: int, kills: int, longest: float, *more: str) -> int:
    """Kill it `kills` times after up to so many seconds each; the number of times that it was really under way."""
    chance, hit = random.Random(seed), 0
    for _ in range(kills):
        process = start(*more)
        try:
            assert process.wait(chance.uniform(1, longest)) == 0, said(root)
        except subprocess.TimeoutExpired:
            hit += 1
            kill(process)
    assert start(*more).wait(PATIENCE) == 0, said(root)
    return hit


@pytest.mark.timeout(600)
def test_a_sweep_killed_at_random_makes_no_run_twice_and_loses_none(start: Start, run_root: Path) -> None:
    """A short one; the long one is below."""
    assert killed_at_random(start, run_root, 0, 3, 10, "sweep.seeds=[0]")
    is_whole(run_root, FOUR[:2])
    assert_once(run_root)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(1, 4))
def test_killed_many_times_every_loss_is_that_of_a_sweep_that_was_left_alone(
    seed: int, start: Start, run_root: Path, small_corpus: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    began = time.monotonic()
    assert start(f"sweep.root={alone}").wait(PATIENCE) == 0
    third = (time.monotonic() - began) / 3  # or a fast machine is done before it was killed often
    (run_root / "said.txt").unlink()  # of that one
    assert killed_at_random(start, run_root, seed, 12, third) > 4
    is_whole(run_root)
    assert_once(run_root)
    for name in FOUR:
        assert rows(run_root / name) == rows(alone / name)


def test_sigterm_leaves_with_75_and_the_same_command_goes_on(start: Start, run_root: Path) -> None:
    process = start("sweep.only=[dense]", "sweep.seeds=[0]", "checkpoint.every=0", steps=60)
    made(run_root, "dense-0", 3)
    process.terminate()  # the sweep alone
    assert process.wait(PATIENCE) == 75
    (line,) = [line for line in said(run_root).splitlines() if "asked to leave" in line]
    assert line == "momafuse: asked to leave: 0 of 1 runs are complete; the same command goes on"
    at = steps(run_root / "dense-0")[-1]
    assert f"step {at} is saved" in (run_root / "dense-0.log").read_text()
    process = start("sweep.only=[dense]", "sweep.seeds=[0]", "checkpoint.every=0", steps=60)
    made(run_root, "dense-0", at + 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(PATIENCE) == 130
    assert "momafuse: interrupted: 0 of 1 runs are complete; the same command goes on" in said(run_root)
    assert start("sweep.only=[dense]", "sweep.seeds=[0]", "checkpoint.every=0", steps=60).wait(PATIENCE) == 0
    is_whole(run_root, FOUR[:1], 60)
    assert len(starts(run_root, "dense-0")) == 3


def test_a_run_that_fails_is_told_and_the_next_one_goes_on(start: Start, run_root: Path) -> None:
    (run_root / "dense-0").mkdir()
    (run_root / "dense-0" / "metrics.jsonl").mkdir()  # what no run can write
    assert start("sweep.seeds=[0]").wait(PATIENCE) == 1
    assert re.search(r"^dense-0: failed: IsADirectoryError: ", said(run_root), re.MULTILINE)
    assert re.search(r"^momafuse: error: dense-0: IsADirectoryError: .*dense-0\.log\)$", said(run_root), re.MULTILINE)
    assert steps(run_root / "moe_1t1i-0") == list(range(1, 7))
    (run_root / "dense-0" / "metrics.jsonl").rmdir()
    assert start("sweep.seeds=[0]").wait(PATIENCE) == 0
    is_whole(run_root, FOUR[:2])


def test_two_sweeps_at_once_share_the_runs_out(start: Start, run_root: Path) -> None:
    both = [start("sweep.seeds=[0]"), start("sweep.seeds=[0]")]
    assert [process.wait(PATIENCE) for process in both] == [0, 0], said(run_root)
    is_whole(run_root, FOUR[:2])
    for name in FOUR[:2]:
        assert starts(run_root, name) == ["from step 0"]


def test_a_run_that_outlives_its_sweep_is_waited_for(start: Start, run_root: Path) -> None:
    """Also where it has only just begun, and holds nothing of its own yet."""
    process = start("sweep.only=[dense]", "sweep.seeds=[0]", steps=30)
    while not (run_root / "dense-0.log").exists():
        assert process.poll() is None, said(run_root)
        time.sleep(0.02)
    process.kill()  # the sweep alone
    process.wait()
    assert start("sweep.only=[dense]", "sweep.seeds=[0]", steps=30).wait(PATIENCE) == 0, said(run_root)
    is_whole(run_root, FOUR[:1], 30)
    assert starts(run_root, "dense-0") == ["from step 0"]
