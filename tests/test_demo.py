"""The command: it serves until it is interrupted, and says in one line what is wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from momafuse.demo import main as demo
from tests.training.conftest import Train, run, small_corpus
from tests.web.conftest import free_port

__all__ = ["run", "small_corpus"]


def test_a_run_is_served_until_it_is_interrupted(run: Train) -> None:
    pytest.importorskip("gradio")
    folder, port = run("trainer.max_steps=1", experiment="dense"), free_port()
    command = [sys.executable, "-m", "momafuse.demo", f"run={folder}", f"port={port}", "device=cpu"]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are told to ignore it
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        signal.signal(signal.SIGINT, heard)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert address == f"http://127.0.0.1:{port}/"
            with urllib.request.urlopen(address) as page:
                assert str(folder) in page.read().decode()
            server.send_signal(signal.SIGINT)
            rest, said = server.communicate(timeout=60)
            assert (server.returncode, rest, "Traceback" in said) == (0, "", False)
        finally:
            server.kill()


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        demo(list(words))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("momafuse: error: ")


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Hidden:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name == "gradio":
                raise ModuleNotFoundError("No module named 'gradio'", name="gradio")

    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Hidden, *sys.meta_path])
    assert complaint(capsys, "run=runs/x") == "gradio is not installed; pip install 'momafuse[demo]'"


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, "run=x", "port=0") == "port=0: must be 1 to 65535"
    assert complaint(capsys, "run=x", "prot=8000").endswith("did you mean port?")
    pytest.importorskip("gradio")
    assert "no complete checkpoint there" in complaint(capsys, f"run={tmp_path}")


def test_help_shows_how(capsys: pytest.CaptureFixture[str]) -> None:
    demo(["--help"])
    said = capsys.readouterr().out
    assert "python -m momafuse.demo run=runs/demo-aux_routers" in said
    assert "http://127.0.0.1:7860" in said
