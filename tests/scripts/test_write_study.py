"""The study's page and the heads of the experiments say what its stored metrics say."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(REPOSITORY / "scripts" / "write_study.py"))
STUDY = REPOSITORY / "docs" / "results" / "study"


def test_what_is_committed_is_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("configs/experiment", "configs/sweep", "docs/results"):
        shutil.copytree(REPOSITORY / part, tmp_path / part, ignore=shutil.ignore_patterns("runs", "*.png"))
    monkeypatch.setattr("sys.argv", ["write_study.py", "--repository", str(tmp_path)])
    SCRIPT["main"]()
    files = [*sorted((tmp_path / "configs" / "experiment").glob("*.yaml")), tmp_path / "docs" / "results" / "study.md"]
    assert sum("# Measured at " in file.read_text() for file in files) == len(SCRIPT["heads"](REPOSITORY)) > 3
    for file in files:
        assert file.read_text() == (REPOSITORY / file.relative_to(tmp_path)).read_text(), file.name


def test_a_head_has_losses_seeds_minutes_and_size() -> None:
    found = json.loads((STUDY / "compare.json").read_text())["rows"]
    dense = next(row for row in found if row["label"] == "dense")
    head = SCRIPT["heads"](REPOSITORY)["dense"]
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


def cell(final: float, difference: float, factor: dict[str, Any]) -> dict[str, Any]:
    return {"final": {"mean": final, "std": None, "n": 1}, "difference": difference, "flops": factor}


def test_a_table_has_the_best_first_and_no_factor_that_is_not_there(tmp_path: Path) -> None:
    two = {"state": "reached", "factor": {"mean": 2.0, "std": 0.1, "n": 2}, "seeds": [{"state": "reached"}] * 2}
    some = {"mean": 1.5, "std": None, "n": 1}
    bound = {"state": "never", "factor": some | {"mean": 1.0}, "seeds": [{"state": "bound"}, {"state": "never"}]}
    one = {"state": "never", "factor": some, "seeds": [{"state": "reached"}, {"state": "never"}]}
    never = {"state": "never", "factor": None, "seeds": [{"state": "never"}]}
    cells = {"all": cell(3.5, 0.5, never), "text": cell(3.0, 0.0, bound), "image": cell(4.0, 1.0, one)}
    rows = [
        {"label": "moe_8x-0", "is_baseline": False, "runs": [{}], "measures": {"causal": cells}},
        {
            "label": "dense",
            "is_baseline": True,
            "runs": [{}] * 2,
            "measures": {"causal": dict.fromkeys(cells, cell(3, 0, two))},
        },
    ]
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "compare.json").write_text(json.dumps({"rows": rows}))
    page = SCRIPT["with_tables"]("Words.\n\n<!-- study -->\n| old |\n\nMore.\n", tmp_path)
    assert page == (
        "Words.\n\n<!-- study -->\n| held out, causal | seeds | all | text | image | η all | η text | η image |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| `dense` | 2 | 3.000 | 3.000 | 3.000 | 1 | 1 | 1 |\n"
        "| `moe_8x` | 1 | 3.500 (+0.500) | 3.000 (+0.000) | 4.000 (+1.000) | "
        "not reached | ≥ 1.00 in 1 of 2 | 1.50 in 1 of 2 |\n"
        "\nMore.\n"
    )
