"""Which runs a sweep has, and what reaches them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from momafuse import sweep
from momafuse.config.entry import help_text
from momafuse.errors import UserError
from tests.sweeping.conftest import MakePlan

TOP = Path(__file__).parents[2]
FEW = ("sweep=iso_flops", "size=micro", "sweep.only=[dense,moma_4t4i]")


def refused(plan: MakePlan, *typed: str) -> str:
    with pytest.raises(UserError) as error:
        plan(*typed)
    return str(error.value)


def test_seed_by_seed_each_with_its_auxiliary_routers(plan: MakePlan, run_root: Path) -> None:
    made = plan(*FEW)
    assert [run.name for run in made.runs] == [
        *("dense-0", "moma_4t4i-0", "moma_4t4i-0-aux"),
        *("dense-1", "moma_4t4i-1", "moma_4t4i-1-aux"),
    ]
    assert {run.folder.parent for run in made.runs} == {run_root}
    assert [run.config.run.seed for run in made.runs] == [0, 0, 0, 1, 1, 1]
    assert [run.after for run in made.runs][:3] == [None, None, "moma_4t4i-0"]
    assert made.runs[2].config.model == made.runs[1].config.model
    assert made.runs[2].config.model_from == str(run_root / "moma_4t4i-0")
    assert str(run_root / "moma_4t4i-0") in made.runs[2].job.yaml
    assert [run.steps for run in made.runs][:3] == [20, 20, 320]


def test_seeds_and_fewer_of_them(plan: MakePlan) -> None:
    names = [run.name for run in plan("sweep=iso_flops", "sweep.auxiliary=false", "sweep.only=[dense,mot]").runs]
    assert names == ["dense-0", "mot-0", "dense-1"]
    names = [run.name for run in plan("sweep=iso_flops", "sweep.seeds=[5,3]", "sweep.only=[dense,mot]").runs]
    assert names == ["dense-5", "mot-5", "dense-3"]


def test_the_users_words_reach_every_run(plan: MakePlan) -> None:
    made = plan(
        *FEW, "trainer.max_steps=7", "optim.lr=1e-3", "logger.tags=[a b,c]", "+debug=one_step", "data.sequence_length=384"
    )
    for run in made.runs:
        assert run.config.logger.tags == ["a b", "c"]
        assert run.config.data.sequence_length == 384
        if run.after is None:
            assert (run.config.trainer.max_steps, run.config.optim.lr) == (7, 1e-3)
    assert made.runs[2].config.optim.lr == 3e-3
    assert "optim.lr=1e-3" not in made.runs[2].words


def test_how_checkpoints_are_kept_is_the_models_alone(plan: MakePlan) -> None:
    made = plan(*FEW, "checkpoint.every=4", "checkpoint.keep_every=4")
    kept = {run.name: run.config.checkpoint for run in made.runs}
    assert (kept["moma_4t4i-0"].every, kept["moma_4t4i-0"].keep_every) == (4, 4)
    assert kept["moma_4t4i-0-aux"].keep_every is None


def test_auxiliary_routers_have_words_of_their_own(plan: MakePlan) -> None:
    made = plan(*FEW, "trainer.max_steps=7", "sweep.auxiliary_words=[trainer.max_steps=5,optim.lr=1e-4]")
    assert [run.steps for run in made.runs] == [7, 7, 5] * 2
    assert made.runs[2].config.optim.lr == 1e-4


def test_mixtures_of_depths_take_the_size_with_the_flops_of_the_one_asked_for(plan: MakePlan) -> None:
    depth = ("sweep=iso_flops", "sweep.only=[mod_moe_1t1i,dense]", "sweep.auxiliary=false", "sweep.seeds=[0]")
    assert [run.job.choices["size"] for run in plan(*depth).runs] == ["nano_mod", "nano"]
    assert [run.job.choices["size"] for run in plan(*depth, "size=90m").runs] == ["90m_mod", "90m"]
    made = plan(*depth, "size=micro")
    assert [run.job.choices["size"] for run in made.runs] == ["micro", "micro"]
    assert made.notes == ("mod_moe_1t1i: there is no size=micro_mod; it runs at size=micro, at other FLOPs than the others",)


def test_where_runs_lie_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    sweep.main(["sweep=untie_ablation", "size=micro", "sweep.only=[dense,qkv]", "sweep.seeds=[2]", "sweep.dry=true"])
    assert capsys.readouterr().out.splitlines() == [
        "# dense-2: waiting",
        "python -m momafuse.train +experiment=dense size=micro run.root=runs/untie_ablation run.name=dense-2 run.seed=2",
        "# qkv-2: waiting",
        "python -m momafuse.train +experiment=mot 'model.untie=[qkv]' model.name=mot_qkv size=micro "
        "run.root=runs/untie_ablation run.name=qkv-2 run.seed=2",
        "# then",
        "python -m momafuse.compare 'runs=[runs/untie_ablation/dense-2,runs/untie_ablation/qkv-2]' baseline=dense",
    ]
    sweep.main(["sweep=untie_ablation", "size=micro", "sweep.only=[qkv]", "sweep.dry=true"])
    assert "momafuse.compare" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_users_own_sweep(plan: MakePlan, tmp_path: Path) -> None:
    """The file that docs/sweeps.md shows."""
    page = (TOP / "docs" / "sweeps.md").read_text()
    (shown,) = re.findall(r"^```yaml\n# mine/sweep/rates\.yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "mine" / "sweep").mkdir(parents=True)
    (tmp_path / "mine" / "sweep" / "rates.yaml").write_text(shown)
    made = plan("sweep=rates", user_dir=tmp_path / "mine")
    assert [(run.name, run.config.optim.lr) for run in made.runs if not run.name.startswith("deep")] == [
        *(("slow-0", 1e-3), ("fast-0", 1e-2), ("slow-1", 1e-3), ("fast-1", 1e-2)),
    ]
    assert [(run.name, run.config.model.n_layers) for run in made.runs if run.name.startswith("deep")] == [
        *(("deep-0", 10), ("deep-1", 10)),
    ]
    assert made.baseline == "dense"


def test_mistakes(plan: MakePlan) -> None:
    assert refused(plan, *FEW, "run.seed=1") == "run.seed=1: write sweep.seeds=[..]"
    assert refused(plan, *FEW, "+experiment=dense").startswith("+experiment=dense: its runs are named in configs/sweep")
    assert refused(plan, *FEW, "sweep.seeds=[]").startswith("sweep.seeds=[]: must be different whole numbers")
    assert refused(plan, *FEW, "sweep.seeds=[1,1]").startswith("sweep.seeds=[1, 1]: must be different whole numbers")
    assert refused(plan, "sweep=iso_flops", "sweep.only=[mott]").startswith("sweep.only=mott: no such run; did you mean mot?")
    assert refused(plan, *FEW, "sweep.store=true") == "sweep.store=true: where to? write sweep.stored=FOLDER"
    assert refused(plan, *FEW, "sweep.fewer_seeds.dense=0").startswith("sweep.fewer_seeds.dense=0: must be at least 1")
    line = refused(plan, "sweep=untie_ablation", "model.untie=[qkv]")
    assert line.startswith("model.untie=[qkv]: run qkv of sweep=untie_ablation sets model.untie itself")
    line = refused(plan, *FEW, "sweep.auxiliary_words=[model.dim=64]")
    assert line.startswith("sweep=iso_flops: run moma_4t4i: model.dim=64: model_from=")


def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, line in {
        "size=micro": "sweep: no value; write sweep=... "
        "(expert_scaling, iso_flops, leave_one_out, more_experts, routers, untie_ablation)",
        "sweep=isoflops": "sweep=isoflops: no such option; did you mean iso_flops?",
        "-m sweep=iso_flops,routers": "-m: a sweep is a set of runs already",
        "sweep=iso_flops sweep.rot=x": "sweep.rot: no such key; did you mean sweep.root?",
    }.items():
        with pytest.raises(SystemExit) as end:
            sweep.main(typed.split())
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith(f"momafuse: error: {line}")


def test_the_examples_of_the_help_make_plans(capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = help_text("sweep", "")
    assert "run.seed" not in text
    assert "+experiment=" not in text
    for line in text.split("examples:")[1].strip().splitlines():
        words = line.split("momafuse.sweep")[1].split()
        sweep.main(words if "sweep.dry=true" in words else [*words, "sweep.dry=true"])
        assert "+experiment=" in capsys.readouterr().out


def test_planning_needs_no_torch() -> None:
    """Seconds, where commands are typed again and again."""
    code = "import sys, momafuse.sweep as s; s.main(['sweep=routers', 'sweep.dry=true']); sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(TOP)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL).returncode == 0
