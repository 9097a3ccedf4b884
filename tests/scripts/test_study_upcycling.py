"""The study of upcycling at micro size: its runs, what it writes, and the arithmetic of the gain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_corpus import make_small_corpus

REPOSITORY = Path(__file__).parents[2]


def study(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/study_upcycling.py", "--size", "micro", "--steps", "10", "--seeds", "1"]
    command += ["--root", str(folder / "runs"), "--out", str(folder / "out"), *more]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def pretend(folder: Path, name: str, first: int, steps: int) -> None:
    """A complete run: the loss is 10 less a tenth of its FLOPs, which are its steps."""
    run = folder / "runs" / name
    run.mkdir(parents=True)
    rows = []
    for step in range(first, steps + 1):
        flops = float(step + 10 - steps if name != "seed-0" else step)
        loss = 10 - flops * {"upcycled20-0": 0.125, "quiet-0": 0.2}.get(name, 0.1)
        losses = {"eval/loss": loss, "eval/loss_text": loss, "eval/loss_image": loss}
        rows.append({"step": step, "tokens": step, "flops": flops, **losses})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "report.json").write_text(json.dumps({"steps": steps}))


def test_complete_runs_are_not_made_again_and_the_page_follows_from_their_metrics(tmp_path):
    runs = {"seed-0": (1, 2), "scratch-0": (1, 10), "upcycled10-0": (0, 9), "upcycled20-0": (0, 8), "quiet-0": (0, 8)}
    for name, (first, steps) in runs.items():
        pretend(tmp_path, name, first, steps)
    done = study(tmp_path)
    assert done.returncode == 0, done.stderr
    arms = json.loads((tmp_path / "out" / "upcycling.json").read_text())["arms"]
    assert arms["upcycled at 10 %"]["gain"]["text"] == [pytest.approx(1.0)]
    assert arms["upcycled at 20 %"]["gain"]["text"] == [pytest.approx(10 / 8)]
    assert arms["at 20 %, no router noise"]["gain"]["text"] == [pytest.approx(10 / 5)]
    assert arms["upcycled at 20 %"]["jump"]["image"]["mean"] == pytest.approx(-0.05)
    page = (tmp_path / "out" / "upcycling.md").read_text()
    assert "| from scratch | 10 | 9.000 ± 0.000 |" in page
    assert "| upcycled at 20 % | 1.25x | 1.25x | 1.25x |" in page
    assert "sees the future" in page
    assert (tmp_path / "out" / "upcycling.png").stat().st_size


@pytest.mark.slow
def test_the_runs_themselves(tmp_path, monkeypatch):
    corpus = make_small_corpus(tmp_path / "corpus", monkeypatch)
    done = study(tmp_path, "--set", f"data.path={corpus}", "trainer.eval_sequences=4", "optim.warmup_steps=1")
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "out" / "upcycling.json").read_text())
    flops = {}
    for name, first in (("from scratch", 1), ("upcycled at 10 %", 1), ("upcycled at 20 %", 2)):
        points = values["arms"][name]["points"]
        assert [int(p) for p in points] == list(range(first, 11))
        flops[name] = points["10"]["flops"]
    assert flops["upcycled at 10 %"] == pytest.approx(flops["from scratch"], rel=1e-3)
    assert set(values["arms"]["upcycled at 20 %"]["jump"]) == {"all", "text", "image"}


def test_gain_is_the_ratio_of_flops_at_equal_loss():
    from upcycling_study.report import gain

    scratch = [{"flops": 10.0, "eval/loss": 5.0}, {"flops": 20.0, "eval/loss": 3.0}]
    assert gain([{"flops": 5.0, "eval/loss": 4.0}, {"flops": 15.0, "eval/loss": 2.0}], scratch, "eval/loss") == 2.0
    assert gain([{"flops": 5.0, "eval/loss": 4.0}], scratch, "eval/loss") is None


def test_steps_that_do_not_divide_are_one_line():
    command = [sys.executable, "scripts/study_upcycling.py", "--steps", "15"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2
    assert "--steps=15 must be a multiple of 10" in result.stderr
