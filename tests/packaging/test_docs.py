"""The pages of docs/, followed: the commands of a page in its order, in a folder with what its reader has, leave what it says.

Each is composed as it stands, which shows that its keys, groups and files are there, and then runs with sizes shrunk
(shrunk.py), in this process but for sweeps and torchrun. No pictures are drawn of runs, which takes seconds each; runs that
are processes of their own draw theirs, as that of the README does.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import pytest
from torch.distributed.run import get_args_parser

from momafuse.config import entry
from momafuse.config.compose import Job, compose_jobs
from momafuse.config.schema import SourceConfig
from momafuse.data import codecs
from momafuse.data.sources import Source, registry, starter
from momafuse.data.sources.registry import Reader
from momafuse.routing.kinds import KINDS
from momafuse.tokenizers import stage
from momafuse.train import main as train
from momafuse.training import auxiliary, finish, pretraining
from tests.packaging.desk import Desk
from tests.packaging.left import LEFT, Done
from tests.packaging.pages import PAGES, REPOSITORY, Command, commands, every_command
from tests.packaging.shrunk import EXCUSED, EXCUSED_AT_MOST, MEANT, MICRO, SHORT, SHRUNK, asked, excuse, shrink
from tests.small_corpus import few
from tests.web.conftest import free_port

FOLLOWED = [page for page in PAGES if commands(page)]
LONG = ("distributed", "sweeps")  # their runs are processes, which draw what they find: a quarter of all the time
PLUGINS = ("my_routers", "my_package", "my_package.melodies", "poems")


def once(reader: Reader) -> Reader:
    """Reads the whole pack one time for each config: a second, which every command would take twice."""
    read: dict[str, Source] = {}

    def remembered(config: SourceConfig) -> Source:
        if str(config) not in read:
            read[str(config)] = reader(config)
        return read[str(config)]

    return remembered


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The starter corpus is its first documents, and nothing is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._READERS, "starter_pictures", once(few(starter.starter_pictures, 48, 24)))
        patch.setitem(registry._READERS, "starter_glosses", once(few(starter.starter_glosses, 800, 200)))
        for draw in ("draw", "reconstruct"):
            patch.setattr(finish, draw, lambda *_: None)
        patch.setattr(pretraining, "renew", lambda *_: None)
        patch.setattr(auxiliary.Auxiliaries, "renew", lambda *_: None)
        patch.setattr(stage.TokenizerStage, "renew", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    root = tmp_path_factory.mktemp("desk")
    (root / "corpora").mkdir()

    def train_there(words: list[str]) -> None:
        size = SHORT if "+experiment=aux_routers" in words else MICRO
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            train([*words, *size])

    return Desk(root, train_there)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plugins are known to one test alone, also where another has imported its like."""
    known: list[dict[str, Any]] = [registry._READERS, codecs._CODECS, KINDS]
    kept = [dict(names) for names in known]
    for names in known:
        for name in ("nearest", "melody", "melodies", "poems"):
            names.pop(name, None)
    for name in PLUGINS:
        sys.modules.pop(name, None)
    yield
    for names, before in zip(known, kept, strict=True):
        names.clear()
        names.update(before)
    for name in PLUGINS:
        sys.modules.pop(name, None)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> Path:
    """An empty folder to work in, from which modules can be imported."""
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # or fonts are looked for anew in another home
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def test_there_are_commands_to_follow() -> None:
    assert len(every_command()) > 100
    assert len(FOLLOWED) >= 18


def each(page: Path, todo: Callable[[Command], None], capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page):
        try:
            todo(command)
        except SystemExit as end:
            pytest.fail(f"{command}\nended with {end.code}: {capsys.readouterr().err[-2000:]}")
        except Exception as error:
            error.add_note(f"in {command}")
            raise


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in LONG), id=p.stem) for p in FOLLOWED])
def test_a_page_is_followed(
    page: Path, desk: Desk, reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def todo(command: Command) -> None:
        compose(command)
        if excuse(command) is None:
            follow(command, monkeypatch, capsys)

    desk.give(reader, page)
    each(page, todo, capsys)


@pytest.mark.parametrize("page", [page for page in FOLLOWED if page.stem in LONG], ids=lambda page: page.stem)
def test_a_long_page_is_composed(page: Path, desk: Desk, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk.give(reader, page)
    each(page, compose, capsys)


@pytest.mark.parametrize("command", [c for c in every_command() if not c.module], ids=str)
def test_the_script_is_there(command: Command) -> None:
    words = command.words
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        assert words[1] in targets
    else:
        assert (REPOSITORY / command.script).is_file()


def test_excuses_are_few_and_needed() -> None:
    for pattern in EXCUSED:
        assert any(re.search(pattern, str(command)) for command in every_command()), f"nothing is excused by {pattern}"
    assert sum(excuse(command) is not None for command in every_command()) <= EXCUSED_AT_MOST


def test_what_shrinks_and_fills_in_is_needed() -> None:
    words = [word for command in every_command() if command.module for word in command.rest]
    for pattern in MEANT:
        assert any(re.fullmatch(pattern, word) for word in words), f"no page says {pattern}"
    for pattern in SHRUNK:
        assert any(re.search(pattern, str(command)) for command in every_command()), f"no command is {pattern}"
