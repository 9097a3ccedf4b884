"""The heads of the experiments say what the study's stored metrics say."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(REPOSITORY / "scripts" / "write_heads.py"))
STUDY = REPOSITORY / "docs" / "results" / "study"


def test_the_committed_heads_are_those_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(REPOSITORY / "configs" / "experiment", tmp_path / "experiment")
    monkeypatch.setattr("sys.argv", ["write_heads.py", "--experiments", str(tmp_path / "experiment")])
    SCRIPT["main"]()
    files = sorted((tmp_path / "experiment").glob("*.yaml"))
    assert sum("# Measured at " in file.read_text() for file in files) == len(SCRIPT["heads"](STUDY)) > 3
    for file in files:
        assert file.read_text() == (REPOSITORY / "configs" / "experiment" / file.name).read_text(), file.name


def test_a_head_has_losses_seeds_minutes_and_size() -> None:
    rows = json.loads((STUDY / "compare.json").read_text())["rows"]
    dense = next(row for row in rows if row["label"] == "dense")
    head = SCRIPT["heads"](STUDY)["dense"]
    for part in ("text", "image"):
        assert f"{part} {dense['measures']['causal'][part]['final']['mean']:.3f} ± " in head
    assert "size=nano " in head
    assert f"{len(dense['runs'])} seeds" in head


def test_an_older_head_gives_way_and_nothing_else_does() -> None:
    text = "# @package _global_\n# python ..\n# Words.\ndefaults:\n  - a\n"
    once = SCRIPT["with_head"](text, "# Measured at x;\n# y (docs/results/study.md).\n")
    assert once == text.replace("# Words.\n", "# Words.\n# Measured at x;\n# y (docs/results/study.md).\n")
    assert SCRIPT["with_head"](once, "# Measured at z (docs/results/study.md).\n") == text.replace(
        "# Words.\n", "# Words.\n# Measured at z (docs/results/study.md).\n"
    )
