"""Real processes that fail under torchrun: what is said, how often, with which exit code, and how soon the job is over."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from momafuse.checkpoint import store
from momafuse.config.compose import compose
from tests.training.conftest import small_corpus, words  # noqa: F401 (a fixture)

TOP = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SOON = 10  # seconds from the failure of one rank to the end of the job, on a busy machine


@dataclass(frozen=True)
class Ended:
    said: list[str]  # our own lines
    report: str  # everything, with torchrun's summary
    seconds: float  # from what hurt to the end of the job

    def exit_codes(self) -> dict[int, int]:
        found = re.findall(r"rank +: (\d+).*\n +exitcode +: (-?\d+)", self.report)
        return {int(rank): int(code) for rank, code in found}

    def root_cause(self) -> str:
        return self.report[self.report.index("Root Cause") :]

    def all_left_with(self, code: int) -> bool:
        """Whether the first to leave had this exit code, and so had the others where torchrun did not end them before."""
        first = re.search(r"exitcode +: (-?\d+)", self.root_cause())
        return first is not None and int(first[1]) == code and set(self.exit_codes().values()) <= {code, -signal.SIGTERM}


@pytest.fixture
def start(small_corpus: Path, run_root: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:  # noqa: F811
    def start_job(*more: str, hurt: str = "-1 0 none") -> subprocess.Popen[str]:
        run = [*words(small_corpus, run_root), "trainer=cpu", "trainer.global_batch=8", "checkpoint.every=2", *more]
        command = [*TORCHRUN, "-m", "momafuse.train", "+experiment=moma_4t4i", *run, "plugins=[tests.parallel.hurt]"]
        environment = os.environ | {"HURT": hurt, "HURT_LOG": str(tmp_path / "hurt")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=TOP, env=environment, start_new_session=True, **pipes)

    return start_job


@pytest.fixture
def end(start, tmp_path: Path) -> Callable[..., Ended]:
    def end_of_job(*more: str, hurt: str = "-1 0 none") -> Ended:
        process = start(*more, hurt=hurt)
        report, _ = process.communicate(timeout=120)
        assert process.returncode
        at = tmp_path / "hurt"
        said = [line for line in report.splitlines() if line.startswith(("momafuse:", "[rank"))]
        return Ended(said, report, time.time() - float(at.read_text()) if at.exists() else 0.0)

    return end_of_job


def test_a_mistake_in_the_config_is_said_once(end):
    ended = end("model.dmi=3")
    assert ended.said == ["momafuse: error: model.dmi: no such key; did you mean model.dim?"]
    assert ended.all_left_with(2)


@pytest.mark.slow
def test_a_mistake_that_all_ranks_find_is_said_once(end):
    ended = end("trainer.global_batch=4")
    (line,) = ended.said
    assert line.startswith("momafuse: error: trainer.global_batch=4: 2 ranks with router.pool=4 need a multiple of 8")
    assert ended.exit_codes()[0] == 2


def test_a_bug_on_one_rank_shows_its_traceback_and_the_others_name_it(end):
    ended = end("trainer.max_steps=50", hurt="1 3 bug")
    traced = [line for line in ended.said if line.startswith("[rank 1]")]
    assert traced[0] == "[rank 1] Traceback (most recent call last):"
    assert traced[-1] == "[rank 1] RuntimeError: planted"
    (other,) = [line for line in ended.said if line not in traced]
    assert other.startswith("momafuse: rank 0: lost another rank (rank 1: RuntimeError: planted); ")
    assert re.search(r"rank +: 1 .*\n.*\n.*\n +traceback : RuntimeError: planted", ended.root_cause())
    assert ended.seconds < SOON


def test_a_killed_rank_ends_the_job_soon(end):
    ended = end("trainer.max_steps=50", hurt="1 3 kill")
    assert all(re.match(r"momafuse: rank 0: lost another rank \(.*(reset|closed) by peer", line) for line in ended.said)
    assert "SIGKILL" in ended.root_cause()
    assert ended.seconds < SOON


@pytest.mark.slow
def test_a_mistake_of_one_rank_alone_names_the_rank(end):
    ended = end("trainer.max_steps=50", hurt="1 3 mistake")
    assert ended.said[0] == "momafuse: error (rank 1): planted=1: on one rank alone; mend it"
    assert ended.exit_codes()[1] == 2
    assert ended.seconds < SOON


@pytest.mark.slow
def test_what_the_main_process_finds_is_said_once(end):
    end("trainer.max_steps=50", "run.name=a", hurt="1 6 kill")
    ended = end("trainer.max_steps=50", "run.name=a", "optim.lr=1")
    (line,) = ended.said
    assert "was trained with another optim.lr" in line
    assert ended.all_left_with(2)


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_job_at_the_time_out(end):
    ended = end("trainer.max_steps=50", "trainer.timeout=10", hurt="1 3 sleep")
    assert ended.said == [] or all("rank 0: lost another rank (Timed out waiting 10000ms" in line for line in ended.said)
    assert 9 < ended.seconds < 10 + 30 + SOON


@pytest.mark.slow
def test_ctrl_c_at_torchrun_saves_and_leaves_no_process(start, run_root):
    process = start("trainer.max_steps=5000", "run.name=long", "checkpoint.every=0")
    metrics = run_root / "long" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    report, _ = process.communicate(timeout=SOON)
    first, second = [line for line in report.splitlines() if line.startswith(("momafuse:", "[rank"))]
    assert first == "momafuse: saving and leaving; Ctrl-C again leaves at once, without saving"
    saved = store.read_state(store.find(run_root / "long"))["step"]
    assert second == f"momafuse: interrupted: step {saved} is saved; the same command goes on"
    assert saved >= 3
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.slow
def test_a_second_ctrl_c_at_torchrun_leaves_at_once(start, run_root):
    """A step of a minute; torchrun passes the second on as SIGTERM."""
    process = start("trainer.max_steps=5000", "run.name=long", "checkpoint.every=0", hurt="1 3 sleep")
    metrics = run_root / "long" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        time.sleep(0.1)
    for _ in range(2):
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
    report, _ = process.communicate(timeout=SOON)
    assert [line for line in report.splitlines() if line.startswith(("momafuse:", "[rank"))] == [
        "momafuse: saving and leaving; Ctrl-C again leaves at once, without saving",
        "momafuse: interrupted; the same command goes on from what is saved",
    ]
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert store.latest(run_root / "long" / "checkpoints") is None


def test_the_commands_of_the_page_compose():
    page = (TOP / "docs" / "distributed.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("    ") and "-m momafuse.train" in line]
    assert len(commands) == 4
    for command in commands:
        start, _, rest = command.partition("-m momafuse.train")
        assert compose(shlex.split(rest, comments=True)).config.run.name
        if "torchrun" in start:
            get_args_parser().parse_args([*shlex.split(start)[1:], "-m", "momafuse.train"])
