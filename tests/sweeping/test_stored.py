"""What counts as complete: a run folder with the report of its last step, and stored metrics of the same run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from momafuse import sweep
from momafuse.config.compose import load_config
from momafuse.errors import UserError
from momafuse.sweeping.state import Entry, board
from momafuse.sweeping.stored import portable, store
from tests.sweeping.conftest import MakePlan, pretend

FEW = ("sweep=iso_flops", "size=micro", "sweep.seeds=[0]", "sweep.only=[dense,moma_4t4i]", "trainer.max_steps=4")
ALONE = (*FEW, "sweep.auxiliary=false")


def states(entries: list[Entry]) -> dict[str, str]:
    return {entry.run.name: entry.state for entry in entries}


def test_a_run_is_complete_with_the_report_of_its_last_step(plan: MakePlan) -> None:
    made = plan(*ALONE)
    pretend(made.runs[0], 4)
    pretend(made.runs[1], 3, complete=False)
    assert states(board(made, None)) == {"dense-0": "complete", "moma_4t4i-0": "waiting"}
    assert states(board(plan(*ALONE, "trainer.max_steps=5"), None))["dense-0"] == "waiting"


def test_a_run_of_other_words_is_refused(plan: MakePlan, run_root: Path) -> None:
    pretend(plan(*ALONE).runs[0], 4)
    with pytest.raises(UserError) as error:
        board(plan(*ALONE, "optim.lr=1e-3"), None)
    expected = f"{run_root}/dense-0: was trained with another optim.lr; restore the values, or choose another sweep.root"
    assert str(error.value) == expected


def test_stored_metrics_count_as_the_run(plan: MakePlan, tmp_path: Path) -> None:
    made, stored = plan(*ALONE), tmp_path / "stored"
    for run in made.runs:
        pretend(run, 4)
    assert store(made.runs, stored).keys() == {"dense-0", "moma_4t4i-0"}
    assert store(made.runs, stored) == {}
    names = ["config.yaml", "metrics.jsonl", "report.json", "revision.txt", "state.json"]
    assert sorted(file.name for file in (stored / "dense-0").iterdir()) == names
    state = json.loads((stored / "dense-0" / "state.json").read_text())
    assert state == {"step": 4, "tokens": 4000, "origin": "other/checkpoints/step_00000003"}
    shutil.rmtree(made.root)
    entries = board(made, stored)
    assert states(entries) == {"dense-0": "stored", "moma_4t4i-0": "stored"}
    assert entries[0].progress.held_out == {"text": 3.125, "image": 6.75}
    assert entries[0].progress.step == 4


def test_another_run_of_that_name_is_refused(plan: MakePlan, tmp_path: Path) -> None:
    made, stored = plan(*ALONE), tmp_path / "stored"
    pretend(made.runs[0], 4)
    store(made.runs[:1], stored)
    shutil.rmtree(made.root)
    for word, key in {
        "optim.lr=1e-3": "optim.lr;",
        "trainer.max_steps=5": "trainer.max_steps (it has 4 steps, not 5);",
    }.items():
        with pytest.raises(UserError) as error:
            board(plan(*ALONE, word), stored)
        assert str(error.value).startswith(f"sweep.stored={stored}: dense-0 was trained with another {key} restore the value")


def test_nothing_of_the_machine_is_stored_and_another_machines_runs_compare(plan: MakePlan, tmp_path: Path) -> None:
    stored = tmp_path / "stored"
    here, there = (plan(*ALONE, f"data.path={tmp_path / machine / 'corpus'}") for machine in ("here", "there"))
    pretend(here.runs[0], 4)
    store(here.runs[:1], stored)
    assert str(tmp_path) not in "".join(file.read_text() for file in (stored / "dense-0").iterdir())
    assert load_config(stored / "dense-0" / "config.yaml") == portable(here.runs[0].config)
    shutil.rmtree(here.root)
    assert states(board(there, stored))["dense-0"] == "stored"
    with pytest.raises(UserError, match=r"another data\.path;"):
        board(plan(*ALONE, "data.path=elsewhere/other"), stored)


def test_auxiliary_routers_need_weights_that_metrics_do_not_have(plan: MakePlan, tmp_path: Path) -> None:
    made, stored = plan(*FEW), tmp_path / "stored"
    pretend(made.runs[1], 4)
    store(made.runs[1:2], stored)
    assert states(board(made, stored))["moma_4t4i-0"] == "complete"  # its weights are there
    shutil.rmtree(made.root)
    with pytest.raises(UserError, match=r"has moma_4t4i-0 and not moma_4t4i-0-aux, which needs its weights"):
        board(made, stored)
    pretend(made.runs[2], made.runs[2].steps)
    assert states(board(made, stored)) == {"dense-0": "waiting", "moma_4t4i-0": "stored", "moma_4t4i-0-aux": "complete"}


def test_auxiliary_routers_of_an_earlier_step_are_refused(plan: MakePlan) -> None:
    made = plan(*FEW)
    pretend(made.runs[1], 4)
    checkpoint = pretend(made.runs[2], made.runs[2].steps) / "checkpoints" / "step_00000320"
    (checkpoint / "state.json").write_text(json.dumps({"teacher": "/x/moma_4t4i-0/checkpoints/step_00000004"}))
    board(made, None)
    with pytest.raises(UserError, match=r"learnt from step 4 of moma_4t4i-0, which is to make 8; delete it"):
        board(plan(*FEW, "trainer.max_steps=8"), None)


def test_the_command_copies_and_trains_nothing(plan: MakePlan, tmp_path: Path, run_root: Path, capsys) -> None:
    pretend(plan(*ALONE).runs[0], 4)
    words = [*ALONE, f"sweep.root={run_root}", f"sweep.stored={tmp_path / 'stored'}", "sweep.store=true"]
    sweep.main(words)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/stored/dense-0: ")
    assert last.startswith(f"{tmp_path}/stored: 1 of 2 runs, 1 of them new (0.0")
    sweep.main(words)
    assert ", 0 of them new" in capsys.readouterr().out
    sweep.main([*words, "sweep.store=false", "sweep.dry=true"])
    out = capsys.readouterr().out
    assert out.startswith("# dense-0: complete\n")
    assert f"runs=[{run_root}/dense-0," in out
