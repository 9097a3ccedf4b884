"""metrics.jsonl: exact, ordered, cut on resume, whole after a SIGKILL."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momafuse.errors import UserError
from momafuse.reports.metrics import MetricsFile, read_metrics

WRITER = """
import sys
from pathlib import Path
from momafuse.reports.metrics import MetricsFile
file = MetricsFile(Path(sys.argv[1]), 0)
for step in range(1, 10**9):
    file.write({"step": step, "tokens": 7 * step, "train/loss": 1 / step})
"""


def write(path: Path, steps: range, start_step: int = 0) -> None:
    file = MetricsFile(path, start_step)
    for step in steps:
        file.write({"step": step, "train/loss": step / 3})
    file.close()


@given(st.lists(st.floats(), max_size=5))
def test_floats_read_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, losses: list[float]) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    file = MetricsFile(path, 0)
    for step, loss in enumerate(losses, start=1):
        file.write({"step": step, "train/loss": loss})
    file.close()
    for row, loss in zip(read_metrics(path), losses, strict=True):
        assert (math.isnan(loss) and math.isnan(float(row["train/loss"]))) or row["train/loss"] == loss


def test_keys_stand_in_one_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write({"train/loss_text": 1.5, "tokens": 8, "perf/tokens_per_second": 2.0, "step": 1, "eval/routing": "training"})
    file.close()
    assert path.read_text() == (
        '{"step": 1, "tokens": 8, "eval/routing": "training", "perf/tokens_per_second": 2.0, "train/loss_text": 1.5}\n'
    )


def test_a_row_is_on_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write({"step": 1})
    assert read_metrics(path) == [{"step": 1}]
    file.close()


def test_a_resumed_run_drops_the_rows_that_it_makes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 8))
    write(path, range(5, 7), start_step=4)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5, 6]
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_from_the_start_drops_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(8))
    write(path, range(1, 3))
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_nothing_is_rewritten_where_nothing_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 5))
    inode = path.stat().st_ino
    write(path, range(5, 6), start_step=4)
    assert path.stat().st_ino == inode
    assert len(read_metrics(path)) == 5


@pytest.mark.parametrize("torn", ["{", '{"step": 4, "train/lo', '{"step": 4}', '{"step": 4, "train/lo\n', "\0\0\0"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 4))
    whole = path.read_text()
    path.write_text(whole + torn)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    write(path, range(4, 4), start_step=9)
    assert path.read_text() == whole


@pytest.mark.parametrize("bad", ["nonsense", "[1]", '{"tokens": 3}', '{"step": null}', ""])
def test_a_bad_line_in_the_middle_is_named_and_nothing_touched(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metrics.jsonl"
    text = json.dumps({"step": 1}) + f"\n{bad}\n" + json.dumps({"step": 2}) + "\n"
    path.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is no row"):
        MetricsFile(path, 1)
    assert path.read_text() == text


def test_a_killed_writer_leaves_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) as process:
        while not path.exists() or path.stat().st_size < 100_000:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    rows = read_metrics(path)
    assert len(rows) > 1000
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert path.read_bytes().endswith(b"\n")
