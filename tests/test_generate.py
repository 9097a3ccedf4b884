"""The command: what it prints and writes, and every prompt that a person may type."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from momafuse.files import only_writer
from momafuse.generate import main as generate
from tests.training.conftest import Train, run, small_corpus

__all__ = ["run", "small_corpus"]

PROMPTS = [
    "a red apple:",
    'it\'s "so", [really] {a: b} = $HOME ${x} %d \\n',
    "",
    "\u00e9\U0001f600\u4e2d",
    "two\nlines",
    "1e5",
    "null",
    "true",
]


@pytest.fixture(scope="module")
def runs() -> dict[str, Path]:
    return {}


@pytest.fixture
def folder(run: Train, runs: dict[str, Path]) -> Path:
    if "dense" not in runs:
        runs["dense"] = run("trainer.max_steps=2", experiment="dense")
    return runs["dense"]


def rows(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "generated.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_arrives_as_it_was_typed(folder: Path, tmp_path: Path, prompt: str) -> None:
    generate([f"run={folder}", f"prompt={prompt}", "make=text", "max_tokens=3", f"out={tmp_path}"])
    assert [row["prompt"] for row in rows(tmp_path)] == [prompt]


def test_pictures_texts_and_the_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cat = tmp_path / "cat.png"
    Image.new("RGB", (30, 40), (9, 200, 90)).save(cat)
    (tmp_path / "prompts.txt").write_text(f"a red apple:\n\n<image:{cat}> what is <b>this</b>?\n")
    generate([f"run={folder}", f"prompts={tmp_path / 'prompts.txt'}", "make=image", "samples=2", "guidance=2", "top_p=0.9"])
    out = folder / "generated"
    assert [(row["sample"], len(row["files"])) for row in rows(out)] == [(0, 1), (1, 1)] * 2  # type: ignore[arg-type]
    for row in rows(out):
        with Image.open(out / row["files"][0]) as made:  # type: ignore[index]
            assert made.size == (64, 64)
    page = (out / "index.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 4
    assert "what is &lt;b&gt;this&lt;/b&gt;?" in page
    assert 'src="http' not in page
    assert re.search(r"264 tokens in [\d.]+ s, [\d,]+ a second", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"prompt=\.\.\. or prompts=FILE: give one of them"),
        (["prompt=a", "prompts=b"], r"give one of them"),
        (["prompts=nowhere.txt"], r"prompts=nowhere.txt: cannot be read as UTF-8 text"),
        (["prompt=a", "temperature=-1"], r"temperature=-1\.0: must be 0 or more"),
        (["prompt=a", "top_p=0"], r"top_p=0\.0: must be above 0"),
        (["prompt=a", "make=video"], r"make=video: this run makes text, image, mixed"),
        (["prompt=<image:no.png>"], r"no\.png: No such file"),
        (["promt=a"], r"promt.*prompt"),
    ],
)
def test_what_a_user_can_get_wrong(
    folder: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        generate([f"run={folder}", f"out={tmp_path / 'out'}", *words])
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_or_of_another_version(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        generate([f"run={tmp_path / 'none'}", "prompt=a"])
    assert re.search(r"run=\S+/none: no complete checkpoint there", capsys.readouterr().err)
    for file in folder.glob("checkpoints/*/config.yaml"):
        kept = file.read_text()
        file.write_text(kept + "surprise: 1\n")
        try:
            with pytest.raises(SystemExit):
                generate([f"run={folder}", "prompt=a"])
        finally:
            file.write_text(kept)
    assert "surprise" in capsys.readouterr().err


def test_a_run_that_is_still_training(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last whole checkpoint answers; before there is one, a line says so."""
    (folder / "checkpoints" / ".step_00000009.partial").mkdir()
    with only_writer(folder):
        generate([f"run={folder}", "prompt=a", "make=text", "max_tokens=2", f"out={tmp_path / 'out'}"])
    assert len(rows(tmp_path / "out")) == 1
    young = tmp_path / "young"
    (young / "checkpoints" / ".step_00000009.partial").mkdir(parents=True)
    shutil.copy(folder / "config.yaml", young)
    with pytest.raises(SystemExit):
        generate([f"run={young}", "prompt=a"])
    assert re.search(r"run=.*young: no complete checkpoint there", capsys.readouterr().err)


def test_ten_megabytes_of_prompts_are_read_and_may_be_stopped(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("a red apple on a table, seen from above and from far away:\n" * 175_000)
    command = [sys.executable, "-m", "momafuse.generate", f"run={folder}", f"prompts={tmp_path / 'many.txt'}", "make=text"]
    process = subprocess.Popen([*command, "max_tokens=2", f"out={tmp_path / 'out'}"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.terminate()
    process.communicate()
    assert len(rows(tmp_path / "out")) >= 1


def test_the_package_comes_without_torch() -> None:
    code = "import sys, momafuse; momafuse.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
