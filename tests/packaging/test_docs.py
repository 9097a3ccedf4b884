"""The pages of docs/, followed: the commands of a page in its order, in a folder with what its reader has, leave what it says.

Each is composed as it stands, which shows that its keys, groups and files are there, and then runs with sizes shrunk
(shrunk.py), in this process but for sweeps and torchrun. No pictures are drawn of runs, which takes seconds each; runs that
are processes of their own draw theirs, as that of the README does.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import pytest

from momafuse.config.schema import SourceConfig
from momafuse.data import codecs
from momafuse.data.sources import Source, registry, starter
from momafuse.data.sources.registry import Reader
from momafuse.routing.kinds import KINDS
from momafuse.tokenizers import stage
from momafuse.train import main as train
from momafuse.training import auxiliary, finish, pretraining
from tests.packaging.desk import Desk
from tests.packaging.left import TYPED
from tests.packaging.pages import (
    PAGES,
    REPOSITORY,
    Command,
    Snippet,
    commands,
    every_command,
    said_in_sentences,
    snippets,
    steps,
)
from tests.packaging.running import compose, follow, type_in
from tests.packaging.shrunk import EXCUSED, EXCUSED_AT_MOST, MEANT, MICRO, SHORT, SHRUNK, excuse
from tests.small_corpus import few

FOLLOWED = [page for page in PAGES if commands(page)]
# Runs that are processes and draw what they find, and a run of every member, which other tests train, too: a third of the time.
LONG = ("distributed", "sweeps", "zoo")
SENTENCES = [command for page in PAGES for command in said_in_sentences(page)]
Step = TypeVar("Step", bound=Command | Snippet)
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


def test_there_are_commands_to_follow() -> None:
    assert len(every_command()) > 100
    assert len(FOLLOWED) >= 18


def each(these: Sequence[Step], todo: Callable[[Step], None], capsys: pytest.CaptureFixture[str]) -> None:
    for step in these:
        try:
            todo(step)
        except SystemExit as end:
            pytest.fail(f"{step}\nended with {end.code}: {capsys.readouterr().err[-2000:]}")
        except Exception as error:
            error.add_note(f"in {step}")
            raise


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in LONG), id=p.stem) for p in FOLLOWED])
def test_a_page_is_followed(
    page: Path, desk: Desk, reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}

    def todo(command: Command | Snippet) -> None:
        if isinstance(command, Snippet):
            type_in(command, names)
            return
        compose(command)
        if excuse(command) is None:
            follow(command, monkeypatch, capsys)
        elif supposed := re.search(r"--model_args (?:run|pretrained)=([\w/-]+)", str(command)):
            assert Path(supposed[1]).is_dir()  # lm_eval's, from a command above

    desk.give(reader, page)
    each(steps(page), todo, capsys)
    if page.stem in TYPED:
        TYPED[page.stem](names)


@pytest.mark.parametrize("page", [page for page in FOLLOWED if page.stem in LONG], ids=lambda page: page.stem)
def test_a_long_page_is_composed(page: Path, desk: Desk, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk.give(reader, page)
    each(commands(page), compose, capsys)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(c.module for c in said_in_sentences(page))], ids=lambda page: page.stem
)
def test_what_sentences_name_is_composed(page: Path, desk: Desk, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk.give(reader, page)
    each([command for command in said_in_sentences(page) if command.module], compose, capsys)


@pytest.mark.parametrize("command", [c for c in SENTENCES if c.script], ids=str)
def test_a_script_of_a_sentence_has_its_options(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [command.script, "--help"])
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    with pytest.raises(SystemExit) as end:
        importlib.import_module(Path(command.script).stem).main()
    assert end.value.code == 0
    help_text = capsys.readouterr().out
    for word in command.rest:
        if word.startswith("--"):
            assert word in help_text


def test_what_python_leaves_is_looked_at() -> None:
    assert set(TYPED) == {page.stem for page in PAGES if any(not snippet.registers for snippet in snippets(page))}


@pytest.mark.parametrize("command", [c for c in [*every_command(), *SENTENCES] if not c.module], ids=str)
def test_the_script_is_there(command: Command) -> None:
    words = command.words
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    else:
        assert (REPOSITORY / command.script).is_file()


def test_excuses_are_few_and_needed() -> None:
    for pattern in EXCUSED:
        assert any(re.search(pattern, str(command)) for command in every_command()), f"nothing is excused by {pattern}"
    assert sum(excuse(command) is not None for command in every_command()) <= EXCUSED_AT_MOST


def test_what_shrinks_and_fills_in_is_needed() -> None:
    words = [word for command in [*every_command(), *SENTENCES] if command.module for word in command.rest]
    for pattern in MEANT:
        assert any(re.fullmatch(pattern, word) for word in words), f"no page says {pattern}"
    for pattern in SHRUNK:
        assert any(re.search(pattern, str(command)) for command in every_command()), f"no command is {pattern}"
