"""What a sweep shows."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from momafuse.sweeping.progress import Progress
from momafuse.sweeping.state import Entry, board
from momafuse.sweeping.table import Lines, table
from tests.sweeping.conftest import MakePlan, pretend


def drawn(entries: list[Entry], width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table(entries, height))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.fixture
def entries(plan: MakePlan) -> list[Entry]:
    """Of 8 runs: four complete, one at work, one of another process, one that failed."""
    made = plan("sweep=iso_flops", "sweep.seeds=[0]", "sweep.only=[dense,moe_1t1i,moma_4t4i,moe_8x,mod_moe_1t1i]")
    for run in made.runs[:4]:
        pretend(run, run.steps)
    pretend(made.runs[4], 77, complete=False, speed=500.0)
    found = board(made, None)
    found[4].state, found[5].state, found[6].state = "running", "elsewhere", "failed"
    found[6].error = "data.path=/corpora/none: no prepared corpus there; run python -m momafuse.prepare with the same words"
    return found


@pytest.mark.parametrize("width", [80, 120])
def test_the_table(entries: list[Entry], width: int) -> None:
    lines = drawn(entries, width, 40)
    assert all(len(line) <= width for line in lines)
    assert lines[1].split() == ["run", "seed", "state", "text", "image", "text", "image", "time", "left"]
    assert lines[2].split() == ["dense", "0", "complete", "0.850", "4.100", "3.125", "6.750", "6m"]
    assert lines[6].split() == ["moe_8x", "0", "step", "77/240", "2.480", "5.730", "3m", "6m"]
    assert lines[7].split() == ["moe_8x-aux", "0", "elsewhere", "8m"]
    assert lines[8].split() == ["mod_moe_1t1i", "0", "failed"]
    assert lines[-2].startswith("mod_moe_1t1i-0: data.path=/corpora/none: no prepared corpus")
    assert lines[-1] == "4 of 8 runs are complete, about 22m left"


def test_a_low_terminal_shows_what_is_at_work(entries: list[Entry]) -> None:
    lines = drawn(entries, 80, 9)
    assert len(lines) == 9
    assert any(line.startswith("moe_8x ") and "77/240" in line for line in lines)
    assert "and 4 more runs" in lines


def test_lines_where_there_is_no_terminal(entries: list[Entry]) -> None:
    said: list[str] = []
    view = Lines(entries, said.append)
    checkpoints = entries[4].run.folder / "checkpoints"  # metrics are of 77 steps, but it goes on from 60
    (checkpoints / "step_00000077").rename(checkpoints / "step_00000060")
    (checkpoints / "step_00000070").mkdir()  # was not finished
    view.began(entries[4])
    view.look()
    entries[4].state = "complete"
    view.ended(entries[4])
    view.ended(entries[6])
    view.began(entries[5])
    assert said == [
        "moe_8x-0: goes on after step 60",
        "moe_8x-0: complete  held out:   (5 of 8 runs are complete, about 16m left)",
        f"mod_moe_1t1i-0: failed: {entries[6].error}  (5 of 8 runs are complete, about 16m left)",
        "moe_8x-0-aux: is made by another process",
    ]


def test_progress_reads_what_is_added_and_forgets_what_is_cut_off(plan: MakePlan) -> None:
    run = plan("sweep=iso_flops", "sweep.only=[dense]").runs[0]
    progress = Progress(run.folder)
    progress.look()
    assert (progress.step, progress.seconds) == (0, 0.0)
    file = pretend(run, 3, complete=False) / "metrics.jsonl"
    whole = file.read_bytes()
    progress.look()
    assert (progress.step, progress.seconds) == (3, 3.0)
    row = json.dumps({"step": 4, "tokens": 4000, "train/loss": 1.0, "train/loss_text": 1.5, "perf/tokens_per_second": 500.0})
    file.write_bytes(whole + row[:40].encode())
    progress.look()
    assert progress.step == 3
    file.write_bytes(whole + row.encode() + b"\n")
    progress.look()
    assert (progress.step, progress.seconds, progress.train) == (4, 5.0, {"text": 1.5})
    file.write_bytes(whole.splitlines(keepends=True)[0])
    progress.look()
    assert (progress.step, progress.seconds) == (1, 1.0)
