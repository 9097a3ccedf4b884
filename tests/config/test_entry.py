"""The command line: errors in one line, sweeps, help, a user's folder; in this process, and as a program."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from momafuse.config.compose import Job
from momafuse.config.entry import entry_point, help_text
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.errors import UserError
from momafuse.preemption import Interrupted, Preempted

Complaint = Callable[..., str]
RunEntry = Callable[..., list[Job]]

MISTAKES = {
    "model.dmi=3": "model.dmi: no such key; did you mean model.dim?",
    "+model.dmi=3": "model.dmi: no such key; did you mean model.dim?",
    "~model.dmi": "model.dmi: no such key; did you mean model.dim?",
    "modle=dense": "modle: no such key or group; did you mean model?",
    "seed=3": "seed: no such key; did you mean run.seed?",
    "model.lr=3": "model.lr: no such key; did you mean optim.lr?",
    "model@other=dense": "model@other: no such key or group; did you mean model?",
    "model=mom": "model=mom: no such option; did you mean moma? (dense, moe, moma, mot)",
    "+experiment=moma4t4i": "experiment=moma4t4i: no such option; did you mean moma_4t4i? (aux_routers, dense, ",
    "experiment=moma_4t4i": "experiment is not in the defaults list; write +experiment=...",
    "debug=one_step": "debug is not in the defaults list; write +debug=...",
    "+model=dense": "model is chosen already; write model=... once, without +",
    "model={dim: 3}": "model={dim: 3}: model takes the name of a file: dense, moe, moma",
    "model=dense,moe": "model=dense,moe: several values need -m (one run for each)",
    "trainer.max_steps=1,2": "trainer.max_steps=1,2: several values need -m (one run for each)",
    "trainer.max_steps=[1": "cannot read 'trainer.max_steps=[1'",
    "trainer.max_steps=abc": "trainer.max_steps=abc: expected a whole number",
    "logger.wandb=on": "logger.wandb=on: expected offline or online or disabled",
    "nonsense": "cannot read 'nonsense': write KEY=VALUE",
    "~optim.lr": "optim.lr: no value",
    "optim.lr=${optim.lrr}": "Interpolation key 'optim.lrr' not found",
    "data=captioned_folder": "data.sources.pictures.path: no value; write data.sources.pictures.path=...",
    "data=folder": "data.path: no value; write data.path=...",
    "tokenizer=starter_bpe": "train it with `python -m momafuse.train_tokenizer tokenizer=starter_bpe`",
    "plugins=[no_such_module]": "plugins=[no_such_module]: cannot be imported (ModuleNotFoundError",
    "--multi": "unrecognized arguments: --multi; --help lists what there is",
    "hydra.nonsense=1": "Could not override 'hydra.nonsense'",
}


@pytest.mark.parametrize("word", MISTAKES)
def test_a_mistake_is_one_line(word: str, complaint: Complaint) -> None:
    assert MISTAKES[word] in complaint(word)


def test_what_prepare_shows_is_a_key_of_its_own(complaint: Complaint, run_entry: RunEntry) -> None:
    assert complaint("show=pln", primary="prepare") == "show=pln: expected none or plan or sample"
    assert complaint("show=plan").startswith("show: no such key")
    (job,) = run_entry("show=plan", primary="prepare")
    assert job.config.show == "plan"


def test_contradictory_files_of_a_group(complaint: Complaint) -> None:
    assert complaint("size=90m", "size=nano") == "size=90m and size=nano contradict each other; keep one"


def test_a_mistake_in_a_users_file(tmp_path: Path, complaint: Complaint) -> None:
    (tmp_path / "experiment").mkdir()
    mine = tmp_path / "experiment" / "mine.yaml"
    call = ("--config-dir", str(tmp_path), "+experiment=mine")
    for text, line in {
        "model: {dmi: 3}": "model.dmi: no such key; did you mean model.dim?",
        "defaults:\n  - override /model: mom": "model=mom: no such option; did you mean moma?",
        "model: [": "config: while parsing",
        "run: {name: 2024_11}": "run.name=202411: expected text or null",
    }.items():
        mine.write_text(f"# @package _global_\n{text}\n")
        assert line in complaint(*call)
    assert "--config-dir=nowhere: no such folder" in complaint("--config-dir", "nowhere")


def test_a_users_folder_brings_experiments_and_groups(
    tmp_path: Path, run_entry: RunEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's mine, [1]"
    for group in ("experiment", "size"):
        (folder / group).mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\nmodel: {name: mine}\n")
    (folder / "size" / "tiny.yaml").write_text("# @package _global_\ndefaults: [micro]\nmodel: {n_layers: 1}\n")
    (job,) = run_entry("--config-dir", str(folder), "+experiment=mine", "size=tiny")
    assert (job.config.run.name, job.config.model.n_layers, job.config.model.dim) == ("mine-size=tiny", 1, 32)
    run_entry("--help", "--config-dir", str(folder))
    assert "mine" in capsys.readouterr().out


def test_several_runs(run_entry: RunEntry, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = run_entry("-m", "+experiment=dense,moma_4t4i", "run.seed=0,1")
    assert [job.config.run.name for job in jobs] == [
        "dense-run.seed=0",
        "dense-run.seed=1",
        "moma_4t4i-run.seed=0",
        "moma_4t4i-run.seed=1",
    ]
    assert [job.config.model.experts for job in jobs[1:3]] == [{"all": 1}, {"text": 4, "image": 4}]
    assert "2/4: +experiment=dense run.seed=1" in capsys.readouterr().err
    jobs = run_entry("-m", "trainer.max_steps=1,2", "run.name='steps-${trainer.max_steps}'")
    assert [job.config.run.name for job in jobs] == ["steps-1", "steps-2"]


def test_several_runs_are_all_checked_before_the_first(complaint: Complaint) -> None:
    assert "model.n_heads=7" in complaint("-m", "model.n_heads=4,7")
    assert "jobs 1 and 2 share the run name moma" in complaint("-m", "trainer.max_steps=1,2")


def test_help_names_groups_experiments_keys_and_examples() -> None:
    text = help_text("train", "Pretrains a model.")
    for part in ("Pretrains a model.", "moma_4t4i", "nano*", "trainer.max_steps", "-m", "--config-dir", "examples:"):
        assert part in text
    assert "data=starter" in help_text("prepare", "Writes a corpus.")
    assert "show=plan" in help_text("prepare", "")
    assert "show=" not in text
    assert "tokenizer=" in help_text("train_tokenizer", "Trains a tokenizer.")


def test_the_examples_of_the_help_compose(run_entry: RunEntry) -> None:
    for primary in ("train", "prepare"):
        for line in help_text(primary, "").split("examples:")[1].strip().splitlines():
            words = line.replace("'", "").split(f"momafuse.{primary}")[1].split()
            assert run_entry(*words, primary=primary)


def test_show_the_config(run_entry: RunEntry, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_entry("size=micro", "--cfg", "job", "run.seed=3") == []
    out = capsys.readouterr().out
    assert "dim: 32" in out
    assert "seed: 3" in out


def test_an_error_of_the_job_itself_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    def job_main(job: object) -> None:
        raise UserError("corpus.bin: is cut short;\nprepare it again")

    with pytest.raises(SystemExit):
        entry_point("train", help="")(job_main)([])
    assert capsys.readouterr().err == "momafuse: error: corpus.bin: is cut short; prepare it again\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 2, "momafuse: error: runs/x: Permission denied; "),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "momafuse: error: the disk: No space left on device; "),
        (KeyboardInterrupt(), 130, "momafuse: interrupted; "),
        (Interrupted("step 3 is saved"), 130, "momafuse: interrupted: step 3 is saved; the same command goes on\n"),
        (Preempted("step 3 is saved"), 75, "momafuse: asked to leave: step 3 is saved; the same command goes on\n"),
    ],
)
def test_a_full_disk_and_ctrl_c_are_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def job_main(job: object) -> None:
        raise error

    with pytest.raises(SystemExit) as raised:
        entry_point("train", help="")(job_main)([])
    assert raised.value.code == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_bugs_keep_their_traceback() -> None:
    def job_main(job: object) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        entry_point("train", help="")(job_main)([])


def test_tokenizer_training_has_its_own_schema() -> None:
    jobs: list[Job[TokenizerTraining]] = []
    entry_point("train_tokenizer", help="", schema=TokenizerTraining)(jobs.append)(["tokenizer=starter_bpe"])
    assert jobs[0].config.tokenizer.pieces == 4088


PROGRAM = """
from momafuse.config.entry import entry_point

@entry_point("train", help="Pretrains a model.")
def main(job):
    print(job.config.run.name)

main()
"""


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (["+experiment=moma_4t4i", "run.seed=1"], 0, "moma_4t4i-run.seed=1\n", ""),
        (["model.dmi=3"], 2, "", "momafuse: error: model.dmi: no such key; did you mean model.dim?\n"),
        (
            ["experiment=dense"],
            2,
            "",
            "momafuse: error: experiment is not in the defaults list; write +experiment=...\n",
        ),
    ],
)
def test_as_a_program_in_any_folder(words: list[str], code: int, out: str, err: str, tmp_path: Path) -> None:
    top = str(Path(__file__).parents[2])
    command, environment = [sys.executable, "-c", PROGRAM, *words], os.environ | {"PYTHONPATH": top}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)
    assert list(tmp_path.iterdir()) == []  # Hydra leaves nothing behind


def test_composing_does_not_import_torch() -> None:
    code = "import sys, momafuse.config.entry; sys.exit('torch' in sys.modules)"
    top = str(Path(__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", code], cwd=top, check=False).returncode == 0
