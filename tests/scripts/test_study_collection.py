"""The page of a run by source: every figure stands where it belongs, small sources are left out, the picture is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from momafuse.errors import UserError
from scripts import study_collection as study

FOUND = {
    "run": "mine",
    "routing": "training",
    "sequences": 8,
    "steps": [10, 20, 30, 40],
    "losses": {
        "all": {"targets": 900, "loss": [4.0, 3.0, 2.0, 1.0]},
        "text": {"targets": 600, "loss": [4.5, 3.5, 2.5, 1.5]},
        "image": {"targets": 300, "loss": [8.0, 7.0, 6.5, 6.0]},
        "books/text": {"targets": 500, "loss": [4.4, 3.4, 2.4, 1.4]},
        "few/text": {"targets": 20, "loss": [9.0, 9.0, 9.0, 9.0]},
        "photos/image": {"targets": 300, "loss": [8.0, 7.0, 6.5, 6.0]},
    },
    "frequencies": {"text": 6.0, "image": 8.5},
}


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    page = study.page(FOUND, "mine")
    rows = {
        cells[1].strip(): [c.strip() for c in cells[2:-1]] for line in page.splitlines() if len(cells := line.split("|")) > 3
    }
    assert rows["**all text**"] == ["4.500", "3.500", "2.500", "1.500", "4.5", "6.000"]
    assert rows["books, text"] == ["4.400", "3.400", "2.400", "1.400", "4.1", ""]
    assert rows["photos, image"][3] == "6.000"
    assert not any("few" in name for name in rows)
    assert "sees the future" in page
    study.draw(FOUND, tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoints there; name a run with checkpoint\.keep_every"):
        study.evaluate_all(tmp_path, 8)
