"""Jobs of a real Slurm: two nodes of this machine, one rank each."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest

from momafuse.launch import __main__ as launch
from tests.launch.test_leaving import report, rows
from tests.reports.test_logger import history, segments
from tests.reports.wandb_file import records
from tests.training.conftest import small_corpus, words  # noqa: F401 (a fixture)

TOP = Path(__file__).parents[2]
JOB = ("launch.nodes=2", "launch.gpus_per_node=0", "launch.time=10", "launch.warning=60")
RUN = ("trainer=cpu", "trainer.global_batch=8", "checkpoint.every=4", "trainer.eval_every=4", "trainer.dry_step=false")
PATIENCE = 400  # seconds


class Cluster:
    """What a user types."""

    def __init__(self, slurm: dict[str, str], corpus: Path, root: Path) -> None:
        self._environment, self._corpus, self.root = slurm, corpus, root

    def __call__(self, *command: str) -> str:
        done = subprocess.run(command, env=self._environment, cwd=TOP, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def launch(self, *more: str) -> str:
        """In this process: importing torch once more would take longer than the rest."""
        out = io.StringIO()
        own = [*JOB, f"launch.root={self.root / 'launches'}"]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(out), suppress(SystemExit):
            patch.setenv("SLURM_CONF", self._environment["SLURM_CONF"])
            launch.main(["+experiment=moma_4t4i", *words(self._corpus, self.root), *RUN, *own, *more])
        return out.getvalue()

    def wait(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < end, self.said()
            time.sleep(0.2)

    def made(self, run: str, steps: int) -> None:
        """Wait until the run has made so many steps."""
        metrics = self.root / run / "metrics.jsonl"
        self.wait(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= steps)

    def ended(self, job: str) -> str:
        """Wait for the end of all its tasks; their state."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
        self.wait(lambda: set(re.findall(r"JobState=(\w+)", self.facts(job))) <= ends)
        (found,) = set(re.findall(r"JobState=(\w+)", self.facts(job)))
        return found

    def facts(self, job: str) -> str:
        return self("scontrol", "show", "job", job)

    def said(self) -> str:
        return "\n".join(log.read_text() for log in sorted(self.root.glob("launches/*/*.log")))


@pytest.fixture
def cluster(slurm, small_corpus: Path, run_root: Path) -> Cluster:  # noqa: F811
    return Cluster(slurm, small_corpus, run_root)


def number(said: str) -> str:
    return re.search(r"^job (\d+)$", said, re.MULTILINE)[1]


@pytest.mark.timeout(900)
def test_a_warned_job_saves_is_requeued_and_finishes(cluster):
    said = cluster.launch("run.name=a", "trainer.max_steps=40")
    job = number(said)
    cluster.made("a", 10)
    cluster("scancel", "--signal=USR1", "--batch", job)
    assert cluster.ended(job) == "COMPLETED", cluster.said()
    assert "Restarts=1 " in cluster.facts(job)
    log = Path(re.search(r"^log (.*)$", said, re.MULTILINE)[1]).read_text()
    (saved,) = re.findall(r"momafuse: asked to leave: step (\d+) is saved", log)
    assert f"going on from {cluster.root}/a/checkpoints/step_{int(saved):08d}" in log
    assert [row["step"] for row in rows(cluster.root / "a") if "train/loss" in row] == list(range(1, 41))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_was_preempted_equals_what_was_left_alone(cluster):
    jobs = number(cluster.launch("-m", "run.name=a,b", "trainer.max_steps=120"))
    cluster.made("a", 20)
    cluster("scancel", "--signal=USR1", "--batch", f"{jobs}_0")
    cluster.wait(lambda: "Restarts=1 " in cluster.facts(f"{jobs}_0"))
    cluster.made("a", 60)
    first = re.search(r"JobId=(\d+) ", cluster.facts(f"{jobs}_0"))[1]
    urgent = cluster(
        "sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"
    ).strip()
    cluster.ended(urgent)  # Slurm's own pre-emption, of both tasks if they still run
    assert cluster.ended(jobs) == "COMPLETED", cluster.said()
    assert int(re.search(r"Restarts=(\d+)", cluster.facts(first))[1]) >= 1
    alone = number(cluster.launch("run.name=c", "trainer.max_steps=120"))
    assert cluster.ended(alone) == "COMPLETED", cluster.said()
    for name in ("a", "b"):
        assert rows(cluster.root / name) == rows(cluster.root / "c")
        assert report(cluster.root / name) == report(cluster.root / "c")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_was_requeued_twice_is_one_offline_wandb_run(cluster):
    job = number(cluster.launch("run.name=a", "trainer.max_steps=60", "logger.wandb=offline"))
    for restarts, steps in ((1, 10), (2, 30)):
        cluster.made("a", steps)
        cluster("scancel", "--signal=USR1", "--batch", job)
        cluster.wait(lambda wanted=f"Restarts={restarts} ": wanted in cluster.facts(job))
    assert cluster.ended(job) == "COMPLETED", cluster.said()
    parts = sorted(segments(cluster.root / "a"))
    ids = {record.run.run_id for part in parts for record in records(part) if record.WhichOneof("record_type") == "run"}
    assert ids == {(cluster.root / "a" / "wandb_id").read_text().strip()}
    assert len(parts) == 3
    assert [row["step"] for part in parts for row in history(part)] == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_requeue_from_outside_goes_on_and_a_cancelled_job_stays_away(cluster):
    job = number(cluster.launch("run.name=a", "trainer.max_steps=5000"))
    cluster.made("a", 5)
    cluster("scontrol", "requeue", job)
    cluster.wait(lambda: "Restarts=1 " in cluster.facts(job))
    cluster.made("a", 30)
    assert "is saved" in cluster.said()
    cluster("scancel", job)
    assert cluster.ended(job) == "CANCELLED"
    time.sleep(10)
    assert "JobState=CANCELLED" in cluster.facts(job)


@pytest.mark.slow
def test_scripts_pass_slurms_own_check(cluster, tmp_path):
    for number_, more in enumerate([(), ("-m", "run.seed=0,1"), ("cluster.sbatch.comment='a b'", "logger.tags=[a,b]")]):
        script = tmp_path / f"{number_}.sbatch"
        script.write_text(cluster.launch("launch.dry=true", *more))
        assert "to start at" in cluster("sbatch", "--test-only", str(script))
    by_hand = ["--gpus-per-node=0", "--ntasks-per-node=1", "slurm/train.sbatch", "+experiment=moma_4t4i"]
    assert "to start at" in cluster("sbatch", "--test-only", "--nodes=2", *by_hand)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_by_hand(cluster):
    run = [*words(cluster._corpus, cluster.root), *RUN, "run.name=a", "trainer.max_steps=8"]
    own = ["--nodes=2", "--gpus-per-node=0", "--ntasks-per-node=1", f"--output={cluster.root}/launches/by/hand.log"]
    (cluster.root / "launches" / "by").mkdir(parents=True)
    own.append(f"--export=ALL,PYTHON={sys.executable}")
    job = cluster("sbatch", "--parsable", *own, "slurm/train.sbatch", "+experiment=moma_4t4i", *run).strip()
    assert cluster.ended(job) == "COMPLETED", cluster.said()
    assert [row["step"] for row in rows(cluster.root / "a") if "train/loss" in row] == list(range(1, 9))


@pytest.mark.slow
def test_a_job_that_slurm_refuses_is_one_line_with_its_words(cluster):
    said = cluster.launch("run.name=a", "launch.nodes=4", "trainer.global_batch=16")
    (line,) = said.splitlines()
    assert line.startswith("momafuse: error: sbatch: Slurm refuses the job: Batch job submission failed: ")
    said = cluster.launch("run.name=a", "cluster.sbatch.partition=none")
    assert "invalid partition specified: none" in said
    assert not list((cluster.root / "launches").glob("*"))
