"""A command line of an entry point, in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from momafuse.config.compose import Job
from momafuse.config.entry import USER_ERROR, entry_point
from momafuse.config.prepare import PrepareConfig
from momafuse.config.schema import Config

RunEntry = Callable[..., list[Job]]


@pytest.fixture
def run_entry() -> RunEntry:
    """The jobs that a program gets which is called with `words`."""

    def call(*words: str, primary: str = "train") -> list[Job]:
        jobs: list[Job] = []
        schema = PrepareConfig if primary == "prepare" else Config
        entry_point(primary, help="Pretrains a model.", schema=schema)(jobs.append)(words)
        return jobs

    return call


@pytest.fixture
def complaint(run_entry: RunEntry, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a program called with `words` prints after `momafuse: error: `; the call must fail with one line."""

    def call(*words: str, primary: str = "train") -> str:
        with pytest.raises(SystemExit) as raised:
            run_entry(*words, primary=primary)
        assert raised.value.code == USER_ERROR
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("momafuse: error: ")
        assert err.count("\n") == 1
        return err.removeprefix("momafuse: error: ").rstrip("\n")

    return call
