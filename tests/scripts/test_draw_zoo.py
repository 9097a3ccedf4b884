"""The figures of docs/zoo.md are those that scripts/draw_zoo.py draws."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

REPOSITORY = Path(__file__).parents[2]
COMMITTED = REPOSITORY / "docs" / "images" / "zoo"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zoo")
    subprocess.run([sys.executable, "scripts/draw_zoo.py", "--out", str(out)], cwd=REPOSITORY, check=True)
    return out


def test_the_committed_figures_are_the_drawn_ones(drawn):
    """To the byte under the matplotlib that drew them; under another one the same figures with the same words."""
    assert sorted(p.name for p in drawn.iterdir()) == sorted(p.name for p in COMMITTED.iterdir())
    for path in sorted(drawn.iterdir()):
        new, old = path.read_text(), (COMMITTED / path.name).read_text()
        if f"Matplotlib v{matplotlib.__version__}," in old:
            assert new == old, path.name
        assert re.findall(r"<!-- .*? -->", new) == re.findall(r"<!-- .*? -->", old), path.name


def test_a_figure_is_as_wide_as_it_is_shown_and_brings_its_own_background(drawn):
    for path in drawn.iterdir():
        svg = path.read_text()
        assert 'width="525pt"' in svg, "525 points are 700 CSS pixels"
        assert "fill: #ffffff; stroke: #c8c8c8" in svg
