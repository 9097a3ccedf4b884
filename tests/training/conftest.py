from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from momafuse.config.compose import compose
from momafuse.training import auxiliary, finish, pretraining
from momafuse.training.pretraining import train
from tests.small_corpus import make_small_corpus

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield make_small_corpus(tmp_path_factory.mktemp("corpus") / "small", patch)


def words(corpus: Path, root: Path, *more: str) -> list[str]:
    """A run of seconds: micro size, fp32, no W&B."""
    return [
        "size=micro",
        f"data.path={corpus}",
        f"run.root={root}",
        "logger.wandb=disabled",
        "trainer.precision=fp32",
        "trainer.eval_sequences=8",
        "trainer.eval_every=0",
        *more,
    ]


@pytest.fixture
def run(small_corpus: Path, run_root: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train in this process; returns the run folder. Without `sheets` no picture is drawn, which takes seconds.

    The dry step, a tenth of such a run, is left out unless `more` asks for it; runs in processes of their own make it.
    """

    def run_in_process(*more: str, experiment: str = "moma_4t4i", said: list[str] | None = None, sheets: bool = False) -> Path:
        job = compose([f"+experiment={experiment}", *words(small_corpus, run_root, "trainer.dry_step=false", *more)])
        with monkeypatch.context() as patch:
            for draw in () if sheets else ("draw", "reconstruct"):
                patch.setattr(finish, draw, lambda *_: None)
            if not sheets:
                patch.setattr(pretraining, "renew", lambda *_: None)
                patch.setattr(auxiliary.Auxiliaries, "renew", lambda *_: None)
            train(job, say=(said if said is not None else []).append)
        return run_root / str(job.config.run.name)

    return run_in_process


@pytest.fixture
def start(small_corpus: Path, run_root: Path) -> Callable[..., subprocess.Popen[str]]:
    """Train in a process of its own, to be killed."""

    def start_process(*more: str, experiment: str = "moma_4t4i") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "momafuse.train", f"+experiment={experiment}"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, *words(small_corpus, run_root, *more)], **pipes)

    return start_process
