"""The study's tables come out of its stored metrics again, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from momafuse.compare import main

STUDY = Path(__file__).parents[2] / "docs" / "results" / "study"


def test_stored_metrics_give_the_committed_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([f"runs=[{STUDY / 'runs'}]", "baseline=dense", f"out={tmp_path / 'out'}", "logger.wandb=disabled"])
    for name in ("compare.md", "compare.json", "compare.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (STUDY / name).read_bytes(), name
    pictures = {file.name for file in STUDY.glob("*.png")}
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == pictures
