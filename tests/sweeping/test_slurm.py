"""A sweep as arrays of jobs: which scripts are rendered, and jobs of a real Slurm."""

from __future__ import annotations

import io
import re
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from momafuse import sweep
from momafuse.sweeping.slurm import arrays, dependency
from momafuse.sweeping.state import board
from tests.launch.conftest import slurm  # noqa: F401 (a fixture)
from tests.launch.test_slurm import Cluster
from tests.sweeping.conftest import MakePlan, pretend
from tests.sweeping.test_killing import steps
from tests.training.conftest import words

SET = ("sweep=iso_flops", "size=micro", "sweep.only=[dense,moma_4t4i,moe_8x]", "sweep.slurm=true")
JOB = ("launch.nodes=1", "launch.gpus_per_node=0", "launch.time=10", "launch.warning=60")


def scripts(text: str) -> list[tuple[str, str]]:
    """-> (the command that hands it to Slurm, the script), each a script that bash can read."""
    parts = re.split(r"^# (sbatch .*)$", text, flags=re.MULTILINE)[1:]
    for script in parts[1::2]:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    return list(zip(parts[::2], parts[1::2], strict=True))


def tasks(script: str) -> list[str]:
    return re.findall(r"run\.name=(\S+?)\)? ?(?:run\.seed=\d+\))?(?: ;;)?$", script, re.MULTILINE)


def test_an_array_of_runs_and_one_of_the_routers_that_follow(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main([*SET, *JOB, f"sweep.root={run_root}", "sweep.dry=true", "cluster=example"])
    (first, runs), (second, followers) = scripts(capsys.readouterr().out)
    assert tasks(runs) == ["moma_4t4i-0", "moe_8x-0", "moma_4t4i-1", "moe_8x-1", "dense-0", "dense-1"]
    assert tasks(followers) == ["moma_4t4i-0-aux", "moe_8x-0-aux", "moma_4t4i-1-aux", "moe_8x-1-aux"]
    assert "#SBATCH --array=0-5\n" in runs
    assert "#SBATCH --array=0-3\n" in followers
    assert "dependency" not in first
    assert second.startswith("sbatch --dependency=aftercorr:JOB ")
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in followers
    assert "#SBATCH --account=my_account\n" in followers
    assert "launch." not in runs.partition("# </job>")[2]
    assert "sweep." not in runs
    assert not list(run_root.iterdir())


def test_what_is_complete_is_no_task(plan: MakePlan) -> None:
    made = plan(*SET)
    by_name = {run.name: run for run in made.runs}
    for name in ("dense-0", "moe_8x-0", "moma_4t4i-1", "moma_4t4i-1-aux"):
        pretend(by_name[name], by_name[name].steps)
    names = [[run.name for run in runs] for runs in arrays(made, board(made, None))]
    first = ["moma_4t4i-0", "moe_8x-1", "dense-1"]
    assert names == [first, ["moma_4t4i-0-aux", "moe_8x-1-aux"], ["moe_8x-0-aux"]]


def test_followers_of_one_task() -> None:
    assert dependency("7", 3, 2) == "aftercorr:7"
    assert dependency("7", 3, 1) == "afterok:7_0"
    assert dependency("7", 1, 1) == "afterok:7"


def test_a_run_that_does_not_fit_the_job_is_named(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sweep.main([*SET, "launch.nodes=3", f"sweep.root={run_root}", "trainer.global_batch=48", "sweep.dry=true"])
    assert capsys.readouterr().err.startswith(
        "momafuse: error: moma_4t4i-0: trainer.global_batch=48: 24 ranks with router.pool=4"
    )
    words = ["launch.nodes=1", "trainer.global_batch=32", "sweep.auxiliary_words=[trainer.global_batch=16]"]
    with pytest.raises(SystemExit):
        sweep.main([*SET, *words, f"sweep.root={run_root}", "sweep.dry=true"])
    line = capsys.readouterr().err
    assert line.startswith("momafuse: error: moma_4t4i-0-aux: trainer.global_batch=16: 8 ranks")
    assert line.endswith("; sweep.auxiliary_words=[..] are of these routers alone\n")


@pytest.mark.timeout(900)
def test_jobs_of_a_real_slurm(slurm, small_corpus: Path, run_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    cluster = Cluster(slurm, small_corpus, run_root)
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    own = [word for word in words(small_corpus, run_root) if not word.startswith("run.root=")]
    short = ["trainer=cpu", "trainer.max_steps=4", "sweep.auxiliary_words=[trainer.max_steps=2,trainer.global_batch=4]"]
    limits = ["sweep.only=[dense,moma_4t4i]", "sweep.seeds=[0]", f"sweep.root={run_root}", f"launch.root={run_root}/launches"]
    out = io.StringIO()
    with redirect_stdout(out):
        sweep.main(["sweep=iso_flops", "sweep.slurm=true", *own, *short, *limits, *JOB])
    jobs = re.findall(r"^job (\d+): (.*)$", out.getvalue(), re.MULTILINE)
    assert [names for _, names in jobs] == ["moma_4t4i-0, dense-0", "moma_4t4i-0-aux"]
    for number, _ in jobs:
        assert cluster.ended(number) == "COMPLETED", cluster.said()
    assert steps(run_root / "dense-0") == steps(run_root / "moma_4t4i-0") == [1, 2, 3, 4]
    assert steps(run_root / "moma_4t4i-0-aux") == [1, 2]
    with redirect_stdout(out := io.StringIO()):
        sweep.main(["sweep=iso_flops", "sweep.slurm=true", *own, *short, *limits, *JOB])
    assert out.getvalue() == "all 3 runs are complete\n"
