"""Runs a page's command in this process, or in as many as it says, and looks at what it leaves."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from momafuse.config import entry
from momafuse.config.compose import Job, compose_jobs
from tests.packaging.left import LEFT, Done
from tests.packaging.pages import REPOSITORY, Command, Snippet
from tests.packaging.shrunk import asked, shrink
from tests.web.conftest import free_port


def program(command: Command) -> Callable[[list[str]], None]:
    name = f"momafuse.{command.module}" + (".__main__" if command.module == "launch" else "")
    main: Callable[[list[str]], None] = importlib.import_module(name).main
    return main


def visit(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo, where somebody opens its page and then presses Ctrl-C."""
    gradio = pytest.importorskip("gradio")
    demo, port = importlib.import_module("momafuse.demo"), free_port()

    class Visitor:
        def wait(self) -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                assert "runs/demo-aux_routers" in page.read().decode()
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "threading", SimpleNamespace(Event=Visitor))
    demo.main([*words, f"port={port}"])
    gradio.close_all()


def torchrun(command: Command, words: list[str]) -> str:
    """As many processes as the page says; returns what they print."""
    before = command.words[1 : command.words.index("-m")]
    start = [sys.executable, "-m", "torch.distributed.run", *before, "-m", f"momafuse.{command.module}"]
    done = subprocess.run([*start, *words], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run(command: Command, words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command prints beside what is captured."""
    if command.script:
        monkeypatch.setattr(sys, "argv", [command.script, *words])
        monkeypatch.syspath_prepend(REPOSITORY / "scripts")
        importlib.import_module(Path(command.script).stem).main()
    elif command.module == "demo":
        visit(words, monkeypatch)
    elif "trainer=cpu" in words and command.words[0] == "torchrun":
        return torchrun(command, words)
    else:
        if command.words[0] == "torchrun":  # for GPUs: one process here
            get_args_parser().parse_args(command.words[1:])
        program(command)(words)
    return ""


def type_in(snippet: Snippet, names: dict[str, Any]) -> None:
    """Into the reader's Python, which knows the names of the page so far; modules of the reader's are files already."""
    if not snippet.registers:
        exec(compile(snippet.code, snippet.page, "exec"), names)


def compose(command: Command) -> None:
    """As it stands."""
    if command.module and command.module != "lm_eval" and not {"--help", "--cfg"} & set(command.words):
        program(command)([*asked(command), "--cfg", "job"])


def follow(command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs it, shrunk, and looks at what it leaves."""
    jobs: list[Job[Any]] = []

    def remembered(*args: Any, **kwargs: Any) -> list[Job[Any]]:
        jobs[:] = compose_jobs(*args, **kwargs)
        return jobs

    words = shrink(command)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(entry, "compose_jobs", remembered)
        said = run(command, words, patch)
    LEFT[command.module or command.script](Done(command, words, jobs, said + capsys.readouterr().out))
