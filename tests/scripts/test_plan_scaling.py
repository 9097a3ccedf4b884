"""The tables of docs/scaling.md are those that scripts/plan_scaling.py prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["+experiment=dense", "size=1_4b"]])
def test_the_page_holds_what_is_printed(words):
    command = [sys.executable, "scripts/plan_scaling.py", *words]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 10
    assert "\n".join(rows) in page
