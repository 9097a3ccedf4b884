"""What ends an import or an export before its time: one line, the exit code of its cause, and nothing that is left behind."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from torch.distributed.checkpoint.filesystem import FileSystemReader

from momafuse.checkpoint import store
from momafuse.checkpoint.huggingface import files
from momafuse.checkpoint.tensors import StoredTensors
from momafuse.export import main as export
from momafuse.generate import main as generate
from momafuse.import_ import main as import_
from tests.exchange import foreign
from tests.exchange.runs import make_run


def interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a disk that is full: the system takes no more of any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_ctrl_c_ends_an_import(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    foreign.llama(tmp_path / "llama")
    capsys.readouterr()
    monkeypatch.setattr(files.SafeFiles, "read", interrupted)
    with pytest.raises(SystemExit) as end:
        import_([f"from={tmp_path / 'llama'}", f"root={tmp_path / 'runs'}"])
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith("momafuse: interrupted")
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(("program", "words"), [(export, ["to=out"]), (generate, ["prompt=a", "make=text"])])
def test_ctrl_c_ends_what_reads_a_run(
    program: Callable[[list[str]], None],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(tmp_path, "dense")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FileSystemReader, "read_data", interrupted)
    with pytest.raises(SystemExit) as end:
        program([f"run={run}", *words])
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith("momafuse: interrupted")
    assert [f.name for f in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("words", [[], ["shard_gb=0.0001"]])
def test_a_full_disk_ends_an_export(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, "dense")
    with pytest.raises(SystemExit) as end, largest_file(100_000):
        export([f"run={run}", f"to={tmp_path / 'out'}", *words])
    assert end.value.code == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["dense"]


def test_a_file_is_no_place_for_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, "dense")
    (tmp_path / "file").touch()
    for main, words in ((export, [f"run={run}", f"to={tmp_path}/file/x"]), (import_, ["from=x", f"root={tmp_path}/file"])):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        assert "is a file; name a folder" in capsys.readouterr().err


def test_metadata_is_read_once_for_all_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times, read = [], FileSystemReader.read_metadata
    monkeypatch.setattr(FileSystemReader, "read_metadata", lambda *a, **k: times.append(1) or read(*a, **k))
    stored = StoredTensors(store.find(make_run(tmp_path, "dense")))
    for path, shape in stored.shapes().items():
        assert tuple(stored.weight(path).shape) == shape
    assert len(times) == 1
