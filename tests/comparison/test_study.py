"""The study's tables come out of its stored metrics again, to the byte, and its page says what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from momafuse.compare import main

STUDY = Path(__file__).parents[2] / "docs" / "results" / "study"


@pytest.mark.parametrize("part", [".", "tokens", "more_experts"])
def test_stored_metrics_give_the_committed_tables(part: str, tmp_path: Path) -> None:
    stored = STUDY / part
    main([f"runs=[{stored / 'runs'}]", "baseline=dense", f"out={tmp_path / 'out'}", "logger.wandb=disabled"])
    for name in ("compare.md", "compare.json", "compare.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (stored / name).read_bytes(), name
    pictures = {file.name for file in stored.glob("*.png")}
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == pictures


def test_the_page_has_the_losses_of_the_shorter_routers() -> None:
    page = (STUDY.parent / "study.md").read_text()
    reports = sorted(STUDY.glob("auxiliary/*/report.json"))
    assert len(reports) == 6
    for file in reports:
        report = json.loads(file.read_text())
        assert report["steps"] == 80
        assert f"{report['eval/loss']:.3f}" in page, file.parent.name
