"""The script of a job, its folder, and what is said where there is no Slurm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from momafuse.config.entry import help_text
from momafuse.launch import __main__ as launch
from momafuse.launch.script import template

LARGE = ("trainer.global_batch=64", "trainer.micro_batch=4", "launch.nodes=2")


def script(capsys, *words: str) -> str:
    launch.main(["+experiment=moma_4t4i", *LARGE, "launch.dry=true", *words])
    text = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    return text


def options(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.MULTILINE))


def error(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        launch.main(["+experiment=moma_4t4i", *words])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("momafuse: error: ")


def test_a_dry_launch_prints_the_script_and_makes_nothing(capsys, tmp_path):
    found = options(script(capsys, "launch.time=1-12", f"launch.root={tmp_path / 'x'}"))
    assert found["nodes"] == "2"
    assert found["ntasks-per-node"] == found["gpus-per-node"] == "8"
    assert found["time"] == "1-12"
    assert found["signal"] == "B:USR1@300"
    assert not list(tmp_path.iterdir())


def test_the_script_has_the_words_of_the_run_and_no_others(capsys):
    text = script(capsys, "logger.tags=[a b]", "cluster=example", "+debug=one_step")
    (words,) = re.findall(r"^words=\((.*)\)$", text, re.MULTILINE)
    expected = "+experiment=moma_4t4i trainer.global_batch=64 trainer.micro_batch=4 'logger.tags=[a b]' +debug=one_step"
    assert words == expected


def test_a_sweep_is_an_array(capsys):
    text = script(capsys, "-m", "run.seed=0,1")
    assert options(text)["array"] == "0-1"
    cases = re.findall(r"^    (\d)\) words=.* run.seed=(\d)\) ;;$", text, re.MULTILINE)
    assert cases == [("0", "0"), ("1", "1")]


def test_a_cluster_file_gives_account_modules_and_container(capsys):
    text = script(capsys, "cluster=example", "cluster.sbatch.comment='a b'")
    assert options(text) | {"account": "my_account", "exclusive": "", "mem": "0", "comment": "'a b'"} == options(text)
    assert "\nmodule load cuda\n" in text
    assert "\nstep=(--container-image=/shared/images/pytorch.sqsh --container-mounts=/shared)\n" in text
    assert "\npython=python\n" in text


def test_the_template_is_a_script_by_itself():
    subprocess.run(["bash", "-n"], input=template(), text=True, check=True)
    assert {"requeue", "open-mode", "signal", "nodes"} <= options(template()).keys()


def test_one_rank_a_node_where_no_gpus_are_asked_for(capsys):
    found = options(script(capsys, "launch.gpus_per_node=0"))
    assert found["ntasks-per-node"] == "1"
    assert "gpus-per-node" not in found


def test_the_micro_batch_need_not_divide_what_a_rank_gets(capsys):
    launch.main(["+experiment=moma_4t4i", "launch.gpus_per_node=2", "launch.dry=true"])  # nano: 16 over 2 ranks, 16 at once
    assert options(capsys.readouterr().out)["ntasks-per-node"] == "2"


def test_mistakes_are_found_before_the_queue(capsys):
    assert error(capsys, "cluster=mars").startswith("cluster=mars: no such option (example, plain)")
    assert error(capsys, "launch.nods=2") == "launch.nods: no such key; did you mean launch.nodes?"
    assert error(capsys, "launch.nodes=0") == "launch.nodes=0: must be at least 1"
    assert error(capsys, "launch.nodes=3").startswith("trainer.global_batch=16: 24 ranks with router.pool=4 need a multiple of")
    assert error(capsys, *LARGE, "trainer.replicas=3") == "trainer.replicas=3: must divide the 16 ranks of this job"
    assert error(capsys, *LARGE[:2], "-m", "launch.nodes=1,2", "run.name=a").startswith("-m: ")


def test_the_examples_of_the_help_make_scripts(capsys):
    for line in help_text("launch", "").split("examples:")[1].strip().splitlines():
        launch.main([*line.split("momafuse.launch")[1].split(), "launch.dry=true"])
        assert "#SBATCH --signal=B:USR1@300" in capsys.readouterr().out


def test_no_slurm_is_one_line_and_leaves_no_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = error(capsys, *LARGE, f"launch.root={tmp_path / 'x'}", f"run.root={tmp_path}")
    assert line.startswith("sbatch: cannot be run on this machine (No such file or directory); submit where Slurm is, or")
    assert not list((tmp_path / "x").iterdir())


def test_the_job_runs_a_copy_of_the_code_and_the_users_folder(capsys, tmp_path, monkeypatch):
    """With an sbatch that only counts: what the folder holds, and that its code composes the same run."""
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text("#!/bin/sh\necho '17;cluster'\n")
    sbatch.chmod(0o755)
    (tmp_path / "mine" / "size").mkdir(parents=True)
    (tmp_path / "mine" / "size" / "tiny.yaml").write_text("# @package _global_\ndefaults: [micro]\ntrainer: {max_steps: 7}\n")
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    words = ["size=tiny", "trainer.global_batch=64", "--config-dir", str(tmp_path / "mine"), f"launch.root={tmp_path / 'x'}"]
    launch.main(["+experiment=moma_4t4i", *words])
    (folder,) = (tmp_path / "x").iterdir()
    assert capsys.readouterr().out == f"job 17\nlog {folder}/17.log\n"
    (task,) = re.findall(r"^words=\((.*)\)$", (folder / "job.sbatch").read_text(), re.MULTILINE)
    command = f"{sys.executable} -P -m momafuse.train {task} --cfg job"
    environment = os.environ | {"PYTHONPATH": str(folder / "code")}
    (tmp_path / "mine" / "size" / "tiny.yaml").unlink()
    done = subprocess.run(command, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == (folder / "config-0.yaml").read_text()
    assert "max_steps: 7\n" in done.stdout
    where = [sys.executable, "-P", "-c", "from momafuse.training import folder; print(folder.__file__, folder.revision())"]
    found = subprocess.run(where, env=environment, capture_output=True, text=True, check=True).stdout.split(" ", 1)
    assert Path(found[0]).is_relative_to(folder / "code")
    assert found[1].strip() == (folder / "code" / "revision.txt").read_text().strip()
