"""docs/notebook.ipynb, cell by cell, on a run of a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.training.conftest import Train, run, small_corpus

__all__ = ["run", "small_corpus"]

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def test_every_cell_runs(run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMAFUSE_RUN", str(run("trainer.max_steps=2", experiment="mot")))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    assert len(cells) == 7
    assert names["sheet"].size == (256, 64)
    with Image.open(tmp_path / "first.png") as first:
        assert first.size == (64, 64)
    assert names["logits"].shape == (len(names["ids"]), names["m"].vocabulary.size)
