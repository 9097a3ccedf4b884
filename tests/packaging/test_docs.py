"""Every command that a page of docs/ shows is one that the program takes: its keys, groups and files are there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.exchange.runs import make_run
from tests.packaging.pages import PAGES, REPOSITORY, Command, commands, every_command

OTHERS = {"lm_eval"}  # whose words are another program's
PLACEHOLDERS = {  # what a reader has and these pages do not, and what stands for it here
    r"data\.path=\.\.\.": "data.path=pictures",
    r"(\S+=)?\.\.\.": "",
    r"data=(my_corpus|NAME)": "data=starter",
    r"--config-dir": "",
    r"data\.stages=.*articles.*": "",
    r"runs/chameleon-7b/configs": "",
    r"size=chameleon-7b": "",
    r"plugins=\[\S+\]": "",
    r"\+tokenizer\.melody=notes": "",
    r"\+(data\.share|objective\.weight)\.melody=\S+": "",
    r"\+data\.sources\.tunes=.*": "",
    r"router\.kind=nearest": "",
}


def asked(command: Command) -> list[str]:
    """The words with placeholders filled in."""
    words = []
    for word in command.rest:
        for pattern, filled in PLACEHOLDERS.items():
            if re.fullmatch(pattern, word):
                word = filled
        words += [word] if word else []
    return words


def test_there_are_commands_to_look_at() -> None:
    assert len(every_command()) > 70
    assert sum(bool(commands(page)) for page in PAGES) >= 18


@pytest.mark.parametrize("command", [c for c in every_command() if c.module and c.module not in OTHERS], ids=str)
def test_the_program_takes_it(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r"model_from=runs/(\S+)", command.text):
        make_run(tmp_path / "runs", "moma_4t4i").rename(tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    words = asked(command)
    program = importlib.import_module(f"momafuse.{command.module}" + (".__main__" if command.module == "launch" else ""))
    program.main(words if "--help" in words or "--cfg" in words else [*words, "--cfg", "job"])


@pytest.mark.parametrize("command", [c for c in every_command() if not c.module], ids=str)
def test_the_script_is_there(command: Command) -> None:
    words = command.words
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        assert words[1] in targets
        return
    named = [word for word in words if word.startswith(("scripts/", "slurm/"))]
    assert named
    assert all((REPOSITORY / word).is_file() for word in named)
