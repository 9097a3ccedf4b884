"""When a run says that its steps wait for data, and that this changes none of them."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from momafuse.data.loader import Loader
from momafuse.reports.metrics import read_metrics
from momafuse.training import data_wait
from momafuse.training.data_wait import Waits
from tests.training.test_loop import losses, said_by


def said(*steps: tuple[float, float], every: int = 2) -> list[str]:
    """Of steps that waited and took so many seconds, after a first one that waited for all of its time."""
    lines: list[str] = []
    waits = Waits(every, "mend it", lines.append)
    for waited, seconds in ((100.0, 100.0), *steps):
        waits.step(waited, seconds)
    return lines


def test_a_share_above_the_limit_is_said_at_the_end_of_its_stretch():
    assert said((0, 10), (4, 10)) == ["20% of the time the steps waited for data: mend it"]
    assert said((2, 10), (0, 10)) == said((4, 10)) == said((4, 10), (0, 10), every=3) == []


def test_a_stretch_takes_its_time():
    """Of steps of a second ten are needed, however few make a line of the console."""
    assert said(*[(0.5, 1)] * 9) == []
    assert said(*[(0.5, 1)] * 10) == ["50% of the time the steps waited for data: mend it"]


def test_it_is_said_when_it_begins_and_when_it_begins_again():
    slow, quick = [(5, 10)] * 2, [(0, 10)] * 2
    assert len(said(*slow, *slow, *slow)) == 1
    assert len(said(*slow, *quick, *slow)) == 2


@pytest.mark.parametrize("experiment", ["dense", "moma_4t4i"])
def test_a_slow_disk_is_named_and_changes_no_number(run, run_root, experiment, monkeypatch, capsys):
    more = ("trainer.max_steps=6", "trainer.log_every=2")
    monkeypatch.setattr(data_wait, "LEAST", 0.0)
    monkeypatch.setattr(data_wait, "LIMIT", 0.5)  # steps of milliseconds, on a machine with other work
    plain = run(*more, "run.name=plain", experiment=experiment)
    assert "waited for data" not in said_by(capsys)
    real, longest = Loader.batch, max(seconds_of(plain))

    def slow(self, sequences):
        time.sleep(5 * longest)
        return real(self, sequences)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "batch", slow)
        waiting = run(*more, "run.name=slow", "trainer.eval_sequences=4", experiment=experiment)
    text = said_by(capsys)
    assert text.count("% of the time the steps waited for data: put ") == 1
    assert "`python scripts/bench_loader.py --corpus " in text
    waits = [row["perf/data_wait"] for row in read_metrics(waiting / "metrics.jsonl") if "perf/data_wait" in row]
    assert min(waits[-2:]) > longest
    assert losses(waiting) == losses(plain)


def seconds_of(folder) -> list[float]:
    """What each step took."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "perf/tokens_per_second" in row]
    tokens = [0, *(row["tokens"] for row in rows)]
    return [(b - a) / row["perf/tokens_per_second"] for (a, b), row in zip(pairwise(tokens), rows, strict=True)]
