"""`python -m momafuse.compare` as a user calls it: on runs made by hand, and on real ones of seconds."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from momafuse.compare import main
from momafuse.comparison import figures
from momafuse.config.compose import compose
from momafuse.config.entry import USER_ERROR, help_text
from momafuse.training.pretraining import train
from tests.comparison.runs import FLOPS, TOKENS, falling, make_auxiliary, make_run
from tests.reports.test_plots import ink
from tests.reports.wandb_file import records
from tests.training.conftest import run, small_corpus  # noqa: F401 -- fixtures

TOP = Path(__file__).parents[2]
PAGE = TOP / "docs" / "comparison.md"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/ as the page names them, in the current folder."""
    monkeypatch.chdir(tmp_path)
    root = Path("runs")
    for s in (0, 1):
        seed = f"run.seed={s}"
        make_run(root, f"dense-{s}", "+experiment=dense", seed, losses=falling(up=0.01 * s))
        make_run(root, f"mot-{s}", "+experiment=mot", seed, losses=falling(1.8 + 0.2 * s))
    for member in ("dense", "mot"):
        make_run(root / "iso_flops", f"{member}-0", f"+experiment={member}", losses=falling())
    make_run(root, "dense", "+experiment=dense", speed=900.0)
    moma = make_run(root, "moma_4t4i", "+experiment=moma_4t4i", losses=falling(text=1.3, image=2.5), routing="training")
    make_auxiliary(root, moma, falling(1.2)(40 * TOKENS * FLOPS), suffix="-aux_routers")
    return root


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_same_metrics_give_the_same_bytes_wherever_they_are(runs, tmp_path, capsys, monkeypatch):
    words = ["runs=[runs/moma_4t4i,runs/dense,runs/moma_4t4i-aux_routers]", "baseline=dense", "logger.wandb=disabled"]
    main(words)
    first = runs / "comparison" / "moma_4t4i+against+dense"
    out = capsys.readouterr().out
    assert out.startswith("# Held against dense\n")
    assert out.rstrip().endswith(
        "\n".join(str(first / n) for n in ("training.png", "held_out.png", "seconds.png", "ends.png", "factors.png"))
    )
    main([*words, f"out={tmp_path}/again"])
    moved = tmp_path / "moved"
    runs.rename(moved)
    main([w.replace("runs/", f"{moved}/") for w in words])
    third = moved / "comparison" / "moma_4t4i+against+dense"
    assert set(files(third)) == {"compare.md", "compare.json", "compare.csv", *figures.NAMES} - {"sizes.png"}
    assert files(tmp_path / "again") == files(third)
    for name, text in files(third).items():
        assert str(tmp_path).encode() not in text, name


def test_what_is_written(runs):
    main(["runs=[runs/dense-0,runs/dense-1,runs/mot-0,runs/mot-1]", "baseline=dense", "out=here", "logger.wandb=disabled"])
    text = Path("here/compare.md").read_text()
    assert "![factors](factors.png)" in text
    found = json.loads(Path("here/compare.json").read_text())
    assert [r["label"] for r in found["rows"]] == ["dense", "mot"]
    image = found["rows"][1]["measures"]["held_out"]["image"]
    assert image["flops"]["factor"]["n"] == 2
    assert image["tokens"]["share"]["mean"] == pytest.approx(1 / image["flops"]["factor"]["mean"], rel=0.01)
    with Path("here/compare.csv").open() as file:
        lines = list(csv.DictReader(file))
    mine = next(x for x in lines if (x["run"], x["measure"], x["part"]) == ("mot", "held_out", "image"))
    assert float(mine["eta"]) == image["flops"]["factor"]["mean"]
    assert (mine["seeds"], mine["reached"], mine["sees_the_future"], mine["eta_state"]) == ("2", "2", "False", "reached")
    for name in ("training.png", "held_out.png", "seconds.png", "ends.png", "factors.png"):
        assert ink(Path("here") / name) > 0.02


def test_figures_of_another_comparison_go(runs):
    for dim in (32, 64, 128):
        make_run(runs, f"size-{dim}", "+experiment=dense", f"model.dim={dim}", flops=FLOPS * dim)
    sizes = ",".join(f"runs/size-{dim}" for dim in (32, 64, 128))
    common = ["out=here", "logger.wandb=disabled"]
    main([f"runs=[{sizes}]", "baseline=dense", *common])
    assert ink(Path("here/sizes.png")) > 0.02
    assert "![sizes](sizes.png)" in Path("here/compare.md").read_text()
    main(["runs=[runs/dense,runs/mot-0]", "baseline=dense", *common])
    assert not Path("here/sizes.png").exists()


def written(file: Path) -> list[Record]:
    """All records: W&B's own process may write the last of them after `finish` has come back."""
    until = time.monotonic() + 60
    while "exit" not in (kinds := [record.WhichOneof("record_type") for record in records(file)]):
        assert time.monotonic() < until, kinds
        time.sleep(0.1)
    return list(records(file))


def test_wandb_gets_factors_and_the_table(runs, capsys):
    main(["runs=[runs/dense,runs/mot-0]", "baseline=dense", "out=here"])
    assert "W&B" not in capsys.readouterr().out  # it says so where it fails
    (file,) = Path("here/wandb").glob("offline-run-*/*.wandb")
    history: dict[str, str] = {}
    for record in written(file):
        if record.WhichOneof("record_type") == "history":
            history |= {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
    assert float(history["mot-0/held_out/all/eta"]) == pytest.approx(1.8, rel=0.01)
    (table,) = Path("here/wandb").glob("offline-run-*/files/media/table/*.json")
    assert "comparison" in table.name
    assert json.loads(table.read_text())["columns"][:3] == ["run", "baseline", "seeds"]


MISTAKES = {
    ("runs=[runs/dense,runs/mot-0]",): "baseline: no value; write baseline=...",
    ("baseline=dense",): "runs: no value; write runs=...",
    ("runs=runs/dense", "baseline=dense"): "runs=runs/dense: expected a list, each text",
    ("runs=[]", "baseline=dense"): "runs: there is no model among them; write runs='[",
    ("runs=[runs/dense]", "baseline=dense", "out=runs/dense"): "out=runs/dense: is the folder of a run; name another",
    ("runs=[runs/dense,runs/none]", "baseline=dense"): "runs=runs/none: no run there (config.yaml is missing)",
    ("runs=[runs/dense]", "baseline=dense", "trainer.max_steps=1"): "trainer.max_steps: no such key",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_and_writes_nothing(runs, words, capsys):
    with pytest.raises(SystemExit) as raised:
        main([*words, "logger.wandb=disabled"])
    assert raised.value.code == USER_ERROR
    err = capsys.readouterr().err
    assert (err.startswith("momafuse: error: "), err.count("\n")) == (True, 1)
    assert MISTAKES[words] in err
    assert not (runs / "comparison").exists()


def commands(text: str) -> list[list[str]]:
    found = re.findall(r"python -m momafuse\.compare (.*)", text)
    return [shlex.split(words, comments=True) for words in found]


def test_a_folder_stands_for_the_runs_in_it(runs, capsys):
    main(["runs=[runs/iso_flops]", "baseline=dense", "logger.wandb=disabled", "out=all"])
    found = json.loads(Path("all/compare.json").read_text())
    assert [one["name"] for row in found["rows"] for one in row["runs"]] == ["dense-0", "mot-0"]
    main(["runs=[runs/iso_flops/dense-0,runs/iso_flops/mot-0]", "baseline=dense", "logger.wandb=disabled", "out=each"])
    assert files(Path("all")) == files(Path("each"))


def test_the_commands_of_the_page_and_of_help_run(runs, capsys):
    words = commands(PAGE.read_text()) + commands(help_text("compare", ""))
    called = [w for w in words if w and any(word.startswith("runs=") for word in w)]
    assert len(called) >= 4
    for one in called:
        main([*one, "logger.wandb=disabled"])
    assert "η" in capsys.readouterr().out


def test_real_runs(run, run_root):  # noqa: F811
    """Two members and the auxiliary routers of one, a few steps each, through the command line."""
    words = ["trainer.max_steps=6", "trainer.eval_every=2"]
    dense, moma = run(*words, experiment="dense"), run(*words)
    more = ["trainer.max_steps=1", "trainer.global_batch=4", "trainer.micro_batch=4", "trainer.eval_sequences=8"]
    common = [
        f"run.root={run_root}",
        "logger.wandb=disabled",
        "trainer.precision=fp32",
        "trainer.dry_step=false",
        "run.name=aux",
    ]
    train(compose(["+experiment=aux_routers", f"model_from={moma}", *more, *common]), say=lambda line: None)
    command = [sys.executable, "-m", "momafuse.compare", f"runs=[{dense},{moma},{run_root / 'aux'}]", f"baseline={dense}"]
    environment = os.environ | {"PYTHONPATH": str(TOP)}
    done = subprocess.run([*command, "logger.wandb=disabled"], env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (run_root / "comparison").iterdir()
    assert all(str(run_root).encode() not in text for text in files(folder).values())
    found = json.loads((folder / "compare.json").read_text())
    base, sparse = found["rows"]
    assert (base["is_baseline"], sparse["sees_the_future"], sparse["marks"]) == (True, True, [])
    for part in ("all", "text", "image"):
        report = json.loads((moma / "report.json").read_text())
        key = "eval/loss" if part == "all" else f"eval/loss_{part}"
        assert sparse["measures"]["held_out"][part]["final"]["mean"] == pytest.approx(report[key], rel=1e-8)
        aux = json.loads((run_root / "aux" / "report.json").read_text())
        assert sparse["measures"]["causal"][part]["final"]["mean"] == pytest.approx(aux[key], rel=1e-8)
        assert sparse["measures"]["held_out"][part]["points"] == 3
        own = base["measures"]["training"][part]
        assert own["flops"]["state"] == own["seconds"]["state"] == "reached"
    report = json.loads((dense / "report.json").read_text())
    assert base["runs"][0]["seconds"] == pytest.approx(report["seconds"], abs=1e-3)
    assert (folder / "factors.png").is_file()
