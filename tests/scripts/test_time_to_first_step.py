"""scripts/time_to_first_step.py: a run is timed to its first step and ended there; one that ends before says so."""

from __future__ import annotations

import pytest
import time_to_first_step

from tests.small_corpus import make_small_corpus


def test_a_run_is_timed_to_its_first_step(tmp_path, monkeypatch):
    corpus = make_small_corpus(tmp_path / "small", monkeypatch)
    words = [
        "+experiment=moma_2t2i",
        "size=micro",
        f"data.path={corpus}",
        "trainer.max_steps=100000",
        "trainer.eval_sequences=8",
    ]
    assert 1 < time_to_first_step.first_step(words) < 200


def test_a_run_that_ends_before_says_so(monkeypatch, capfd):
    monkeypatch.setattr("sys.argv", ["time_to_first_step.py", "+experiment=moma_9t9i"])
    with pytest.raises(SystemExit, match=r"^time_to_first_step: error: the run ended before its first step"):
        time_to_first_step.main()
    assert "moma_9t9i" in capfd.readouterr().err
