"""plots/routing.png draws what it is given; how it looks was looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from momafuse.reports.routing_plot import Layer, Loads, Paths, Shown, plot_routing
from momafuse.routing.names import NONE, PASSED
from tests.reports.test_plots import ink


def shown(experts: int, pictures: int, loads: bool) -> Shown:
    picture = np.full((64, 64, 3), 90, np.uint8)
    words = [(e, ["$a_b", "\udc80", ","] if e else []) for e in range(experts)]
    layers = [Layer(i, [picture] * pictures, words, passed=i == 3) for i in (2, 3)]
    places = [*range(experts), NONE, PASSED]
    ways = [((0, 1, NONE), 0.25, ["dog"]), ((1, PASSED, 0), 0.1, [])]
    paths = Paths("text", [1, 2, 3], places, ways, np.full((2, experts + 2, experts + 2), 0.02))
    of = Loads([10, 20], [0, 1, 2, 3], list(range(experts)), np.ones((2, 4, experts))) if loads else None
    names = tuple(f"all {e + 1}" for e in range(experts))
    return Shown(names, [picture] * pictures, layers, [paths], of)


@pytest.mark.parametrize("experts", [2, 8, 40])
def test_everything_is_drawn(tmp_path: Path, experts: int) -> None:
    plot_routing(shown(experts, 3, True), tmp_path / "all.png")
    plot_routing(shown(experts, 0, False), tmp_path / "less.png")
    assert ink(tmp_path / "all.png") > 0.04
    with Image.open(tmp_path / "all.png") as whole, Image.open(tmp_path / "less.png") as less:
        assert whole.width == less.width
        assert whole.height > less.height
