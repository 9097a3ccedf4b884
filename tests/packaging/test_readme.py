"""The README's commands run, and its links lead somewhere.

A ```bash block after the line `<!-- test -->` is run, line by line, in one empty folder, each command shrunk to a few
steps of the smallest model (`SHRUNK` replaces or joins its own overrides).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
SMALL_CORPUS = "data.sources.starter_pictures.variants=1"
SHRUNK = {
    "momafuse.train": ["size=micro", "trainer.max_steps=2", SMALL_CORPUS],
    "momafuse.prepare": ["size=micro", SMALL_CORPUS],
    "momafuse.describe": ["size=micro"],
}


def commands() -> list[list[str]]:
    """The words of every command in the marked blocks, comments left out."""
    blocks = re.findall(r"^<!-- test -->\n```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def shrink(words: list[str]) -> list[str]:
    program, flag, module, *rest = words
    assert (program, flag) == ("python", "-m"), f"a marked block holds python -m commands only: {shlex.join(words)}"
    if "--help" in rest:
        return [sys.executable, "-m", module, *rest]
    small = SHRUNK[module]
    keys = {override.partition("=")[0] for override in small}
    return [sys.executable, "-m", module, *(word for word in rest if word.partition("=")[0] not in keys), *small]


def test_shrinking_replaces_a_commands_own_sizes() -> None:
    words = shlex.split("python -m momafuse.train -m +experiment=a,b size=90m run.seed=1")
    expected = "-m momafuse.train -m +experiment=a,b run.seed=1 size=micro trainer.max_steps=2"
    assert shrink(words)[1:] == [*expected.split(), SMALL_CORPUS]


@pytest.mark.timeout(900)
def test_the_marked_commands_run(tmp_path: Path) -> None:
    assert len(commands()) >= 4
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for words in commands():
        result = subprocess.run(shrink(words), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"


def test_the_zoos_figures_are_those_of_the_study() -> None:
    rows = json.loads((REPOSITORY / "docs" / "results" / "study" / "compare.json").read_text())["rows"]
    lines = [line.split("|")[1:-1] for line in README.splitlines() if line.startswith("| `")]
    for row in rows:
        name, cells = re.sub(r"-\d+$", "", row["label"]), row["measures"]["causal"]
        (figures,) = [line[-1].strip() for line in lines if f"`{name}`" in line[0]]
        losses = [cells[part]["final"]["mean"] for part in ("text", "image")]
        differences = [cells[part]["difference"] for part in ("text", "image")]
        wanted = "{:.2f}, {:.2f}".format(*losses) if row["is_baseline"] else "{:+.2f}, {:+.2f}".format(*differences)
        assert figures.startswith(wanted.replace("-", "\u2212")), name
    assert len(README.splitlines()) <= 120


def test_its_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []
