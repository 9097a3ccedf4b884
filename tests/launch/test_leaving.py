"""A warning at each phase of a run: what is on disk then, the exit code, and that the run goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from momafuse import preemption
from momafuse.checkpoint import store
from momafuse.data import chunks, making
from momafuse.data.corpus import unfinished
from momafuse.data.writer import parts
from momafuse.preemption import Preempted
from momafuse.reports.metrics import read_metrics
from momafuse.training import held_out
from tests.launch import phases
from tests.reports.test_logger import history, kinds, segments
from tests.reports.wandb_file import records
from tests.small_corpus import make_small_corpus
from tests.training.conftest import Train, run, small_corpus, words  # noqa: F401 (fixtures)

# An evaluation has three micro-batches, of two ranks two rounds.
RUN = ("trainer.max_steps=6", "checkpoint.every=2", "trainer.eval_every=3", "trainer.eval_sequences=12")
TOP = Path(__file__).parents[2]
# phase: the step that is saved when the run has left
SAVED = {"start": None, "dry_step": None, "training": 2, "evaluation": 3, "saving": 2}


def agrees(phase: str, saved: int | None) -> bool:
    """The thread that writes may begin while the next step is under way, which is then saved, too."""
    return saved == SAVED[phase] or (phase == "saving" and saved == SAVED[phase] + 1)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*preemption.SIGNALS, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are told to ignore it
    yield
    preemption._received.clear()
    preemption._listening = False
    for number, handler in before.items():
        signal.signal(number, handler)


def rows(folder: Path) -> list[dict[str, object]]:
    """All metrics but times."""
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in read_metrics(folder / "metrics.jsonl")]


def report(folder: Path) -> dict[str, object]:
    return {k: v for k, v in json.loads((folder / "report.json").read_text()).items() if k != "seconds"}


@pytest.fixture(scope="module")
def alone(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The run that was left alone."""
    root = tmp_path_factory.mktemp("alone")
    train_again(small_corpus, root)
    return root / "a"


def again() -> None:
    """As in a new process."""
    preemption._received.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def train_again(
    corpus: Path, root: Path, warn: str | None = None, ranks: int = 1, rank: str | None = None, by: str = "SIGUSR1"
) -> int:
    """The run in processes of its own; returns their exit code (of many, the lowest that is not 0)."""
    more = ["+experiment=moma_4t4i", "run.name=a", "trainer=cpu", "trainer.global_batch=8", *RUN]
    command = ["-m", "momafuse.train", *more, *words(corpus, root), *RUN, "plugins=[tests.launch.phases]"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    environment = os.environ | ({"WARN": warn, "WARN_BY": by} if warn else {}) | ({"WARN_RANK": rank} if rank else {})
    done = subprocess.run([sys.executable, *launcher, *command], cwd=TOP, env=environment, capture_output=True, text=True)
    if ranks > 1 and done.returncode:
        codes = {int(code) for code in re.findall(r"exitcode +: (-?\d+)", done.stderr)} - {-signal.SIGTERM}
        assert len(codes) == 1, done.stderr
        return codes.pop()
    return done.returncode


@pytest.mark.parametrize("by", ["SIGUSR1", "SIGINT"])
@pytest.mark.parametrize("phase", ["training", "evaluation", "saving"])
def test_one_process_leaves_with_what_is_new_saved_and_goes_on(phase, by, run: Train, run_root, alone, monkeypatch, capfd):  # noqa: F811
    preemption.listen()
    words = (*RUN, "run.name=a", "trainer.global_batch=8", "trainer.dry_step=true", "trainer=cpu")
    with monkeypatch.context() as patch:
        phases.at(phase, patch.setattr, by)
        with pytest.raises(Preempted) as left:
            run(*words)
    first = "momafuse: saving and leaving; Ctrl-C again leaves at once, without saving\n"
    assert capfd.readouterr().err.count(first) == (by == "SIGINT")
    newest = store.latest(run_root / "a" / "checkpoints")
    saved = None if newest is None else store.read_state(newest)["step"]
    assert agrees(phase, saved)
    assert not list(run_root.glob("a/checkpoints/.step*"))
    said = "nothing new to save" if saved is None else f"step {saved} is saved"
    because, code = ("interrupted", 130) if by == "SIGINT" else ("asked to leave", 75)
    assert (str(left.value), left.value.code) == (f"{because}: {said}; the same command goes on", code)

    again()
    run(*words)
    assert rows(run_root / "a") == rows(alone)
    assert report(run_root / "a") == report(alone)


def test_a_warning_at_the_last_evaluation_does_not_lose_it(run: Train, run_root, alone, monkeypatch):  # noqa: F811
    preemption.listen()
    words = (*RUN, "run.name=a", "trainer.global_batch=8", "trainer=cpu")
    with monkeypatch.context() as patch:
        patch.setattr(held_out, "held_out_batch", phases.nth(held_out.held_out_batch, 4))
        with pytest.raises(Preempted, match="step 6 is saved"):
            run(*words)
    preemption._received.clear()
    run(*words)
    assert rows(run_root / "a") == rows(alone)


def test_a_run_that_left_twice_is_one_offline_wandb_run(run: Train, run_root, monkeypatch):  # noqa: F811
    """Three segments of one id, with every step once and in order; evaluations under the step that they are of."""
    preemption.listen()
    words = (*RUN, "run.name=a", "trainer.eval_every=2", "logger.wandb=offline")
    for _ in range(2):
        with monkeypatch.context() as patch:
            phases.at("training", patch.setattr)
            with pytest.raises(Preempted):
                run(*words)
        preemption._received.clear()
    run(*words)
    parts = sorted(segments(run_root / "a"))
    assert [kinds(part).count("exit") for part in parts] == [1, 1, 1]
    ids = {record.run.run_id for part in parts for record in records(part) if record.WhichOneof("record_type") == "run"}
    assert ids == {(run_root / "a" / "wandb_id").read_text().strip()}
    rows = [history(part) for part in parts]
    assert [[row["step"] for row in part] for part in rows] == [[1, 2], [3, 4], [5, 6]]
    assert [row["step"] for part in rows for row in part if "eval/loss" in row] == [2, 4, 6]
    codes = [r.exit.exit_code for part in parts for r in records(part) if r.WhichOneof("record_type") == "exit"]
    assert codes == [0, 0, 0]


def test_who_is_asked_while_the_report_is_written_is_complete(run: Train, run_root, monkeypatch):  # noqa: F811
    preemption.listen()
    with monkeypatch.context() as patch:
        phases.at("finish", patch.setattr)
        run("trainer.max_steps=2", "run.name=a")
    assert preemption.asked()
    assert (run_root / "a" / "report.json").is_file()


@pytest.mark.parametrize("by", ["SIGUSR1", "SIGINT"])
def test_preparing_leaves_after_a_part_and_goes_on(by, small_corpus, tmp_path, monkeypatch):  # noqa: F811
    preemption.listen()
    monkeypatch.setattr(chunks, "DOCUMENTS", 300)
    path = tmp_path / "corpus"
    with monkeypatch.context() as patch:
        patch.setattr(making, "part_path", phases.nth(making.part_path, 2, by))
        with pytest.raises(Preempted, match="parts that are done are kept") as left:
            make_small_corpus(path, patch)
    assert left.value.code == (130 if by == "SIGINT" else 75)
    assert not path.exists()
    assert parts(unfinished(path), 1)
    again()
    make_small_corpus(path, monkeypatch)
    splits = [json.loads((p / "manifest.json").read_text())["splits"] for p in (path, small_corpus)]
    assert splits[0] == splits[1]


def test_a_process_of_its_own_leaves_with_the_documented_code(small_corpus, run_root):  # noqa: F811
    assert train_again(small_corpus, run_root, warn="training") == 75


def test_a_second_ctrl_c_leaves_at_once_and_the_run_goes_on_from_its_checkpoint(small_corpus, run_root, alone):  # noqa: F811
    """When step 4 begins, which takes a minute then: the first alone would save step 3."""
    assert train_again(small_corpus, run_root, warn="later", by="twice") == 130
    assert store.latest(run_root / "a" / "checkpoints").name == store.step_name(2)
    assert train_again(small_corpus, run_root, warn="evaluation", by="SIGINT") == 130
    assert train_again(small_corpus, run_root) == 0
    assert rows(run_root / "a") == rows(alone)
    assert report(run_root / "a") == report(alone)


@pytest.mark.slow
@pytest.mark.parametrize(("by", "phase"), [*(("SIGUSR1", p) for p in SAVED), ("SIGINT", "training"), ("SIGINT", "evaluation")])
@pytest.mark.parametrize("rank", [None, "1"])
def test_two_ranks_leave_together_even_if_one_alone_was_asked(by, phase, rank, small_corpus, run_root, tmp_path):  # noqa: F811
    code = train_again(small_corpus, run_root, warn=phase, ranks=2, rank=rank if phase != "start" else None, by=by)
    assert code == (130 if by == "SIGINT" else 75)
    newest = store.latest(run_root / "a" / "checkpoints")
    assert agrees(phase, None if newest is None else store.read_state(newest)["step"])
    assert train_again(small_corpus, run_root, ranks=2) == 0
    assert train_again(small_corpus, tmp_path / "alone", ranks=2) == 0
    assert rows(run_root / "a") == rows(tmp_path / "alone" / "a")
