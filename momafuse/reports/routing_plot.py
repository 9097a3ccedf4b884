"""`plots/routing.png`: what experts took of held-out pictures and words, the ways of tokens through layers, loads over time.

One colour an expert throughout (drawing.py). Draws what it is given (training/routing_shown.py); matplotlib without pyplot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from momafuse.reports.drawing import Pixels, colour
from momafuse.reports.plots import DPI, GREY, new_figure
from momafuse.routing.names import NONE, PASSED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

WIDTH = 13.0  # inches
PATH_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255")
LOAD_PANELS = 6  # layers at most
MOST_NAMED = 24  # experts in a legend
SIGNS = {NONE: "·", PASSED: "-"}
GAP = "   "  # between words, some of which are commas


@dataclass(frozen=True)
class Layer:
    """One layer: a drawn picture for each original, and of experts the words they take above their base rate."""

    number: int
    pictures: list[Pixels]
    words: list[tuple[int, list[str]]]  # expert, and its words, the most typical first
    passed: bool = False  # whether the layer passes rows by, whose cells are crossed


@dataclass(frozen=True)
class Paths:
    """The most frequent ways of one modality's tokens: an expert of each layer, share of the tokens, words."""

    modality: str
    layers: list[int]
    places: list[int]  # the experts that its tokens can go to; NONE and PASSED where some came to that
    paths: list[tuple[tuple[int, ...], float, list[str]]]
    flows: npt.NDArray[np.float64]  # (layers - 1, places, places) shares of tokens from place to place


@dataclass(frozen=True)
class Loads:
    """Over evaluations: the load of every expert over the even one. `of` (steps, layers, experts)."""

    steps: list[int]
    layers: list[int]
    experts: list[int]
    of: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    names: tuple[str, ...]  # of all experts of a layer
    originals: list[Pixels]
    layers: list[Layer]
    paths: list[Paths] = field(default_factory=list)
    loads: Loads | None = None


def plot_routing(shown: Shown, out: Path) -> None:
    """A band for pictures and words, one for the ways of each modality, one for loads, as far as there are any."""
    heights = [0.4 + sum(_heights(shown))]
    heights += [max(2.9, 0.9 + 0.17 * len(p.places)) for p in shown.paths]
    if shown.loads is not None:
        heights.append(0.6 + 2.0 * math.ceil(len(shown.loads.layers) / _across(shown.loads)))
    figure = new_figure(WIDTH, sum(heights))
    bands = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _pictures_and_words(bands[0], shown)
    for band, paths in zip(bands[1:], shown.paths, strict=False):
        _paths(band, paths, shown.names)
    if shown.loads is not None:
        _loads(bands[-1], shown.loads, shown.names)
    figure.savefig(out, dpi=DPI)


def _heights(shown: Shown) -> list[float]:
    """Inches of the line of originals, if there is one, and of a line for each layer."""
    most = max(len(layer.words) for layer in shown.layers)
    return [1.35] * bool(shown.originals) + [max(1.35 if shown.originals else 0.0, 0.25 + 0.21 * most)] * len(shown.layers)


def shade(expert: int, experts: int) -> tuple[float, float, float]:
    """An expert's colour as matplotlib takes it."""
    r, g, b = colour(expert, experts)
    return r / 255, g / 255, b / 255


def _pictures_and_words(band: SubFigure, shown: Shown) -> None:
    count, lines = len(shown.originals), len(shown.layers) + bool(shown.originals)
    what = "Held-out pictures, and each code under the colour of its expert; " if count else ""
    band.suptitle(f"{what}words that a text expert takes above its base rate", fontsize=11)
    wide = [1.0] * count + [6.2]
    grid = band.subplots(lines, count + 1, squeeze=False, width_ratios=wide, height_ratios=_heights(shown))
    for panel in grid.flatten():
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for panel, picture in zip(grid[0], shown.originals, strict=False):
        panel.imshow(picture, interpolation="nearest")
    if count:
        grid[0, 0].set_ylabel("as coded", fontsize=9)
        _legend(grid[0, -1], shown)
    for line, layer in zip(grid[-len(shown.layers) :], shown.layers, strict=True):
        for panel, picture in zip(line, layer.pictures, strict=False):
            panel.imshow(picture, interpolation="nearest")
        line[0].set_ylabel(f"layer {layer.number}" + "\ncrossed: passed by" * layer.passed, fontsize=9)
        _words(line[-1], layer, shown.names)


def _legend(panel: Axes, shown: Shown) -> None:
    """Which colour is whose, unless there are too many."""
    from matplotlib.patches import Patch

    marks = [Patch(color=shade(e, len(shown.names)), label=name) for e, name in enumerate(shown.names)]
    if len(marks) > MOST_NAMED:
        return
    marks.append(Patch(color=shade(NONE, len(shown.names)), label="no expert"))
    panel.legend(handles=marks, loc="center", ncols=math.ceil(len(marks) / 4), frameon=False, fontsize=9, title="expert")


def _words(panel: Axes, layer: Layer, names: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    panel.set(xlim=(0, 1), ylim=(len(layer.words), 0))
    for line, (expert, words) in enumerate(layer.words):
        panel.add_patch(Rectangle((0.01, line + 0.2), 0.018, 0.6, color=shade(expert, len(names))))
        panel.text(0.04, line + 0.5, names[expert], va="center", fontsize=9)
        text, style = (GAP.join(words), "normal") if words else ("no word more than others", "italic")
        text = text.encode("utf-8", "replace").decode()  # pieces of bytes may be no text
        panel.text(0.2, line + 0.5, text, va="center", fontsize=9, style=style, parse_math=False, clip_on=True)


def _paths(band: SubFigure, p: Paths, names: Sequence[str]) -> None:
    """Left: layers across, places down; all ways in grey, as wide as they are frequent; the most frequent in colours. Right:
    these in figures."""
    left, right = band.subplots(1, 2, width_ratios=[1.0, 1.0])
    row_of = {place: row for row, place in enumerate(p.places)}
    wide = 14.0  # points of all tokens
    for at, flow in enumerate(p.flows):
        for (start, end), share in np.ndenumerate(flow):
            if share > 0.002:
                left.plot([at, at + 1], [start, end], color="#dddddd", linewidth=wide * share, solid_capstyle="butt", zorder=1)
    spread = np.linspace(-0.27, 0.27, max(2, len(p.paths)))
    for n, (path, _, _) in enumerate(p.paths):
        height = [row_of[e] + spread[n] for e in path]
        left.plot(range(len(path)), height, color=PATH_COLOURS[n], linewidth=1.6, marker="o", markersize=3, zorder=2)
    left.set_xlim(-0.3, len(p.layers) - 0.8)
    left.set_ylim(len(p.places) - 0.5, -0.5)
    left.set_xticks(range(len(p.layers)), [str(i) for i in p.layers], fontsize=9)
    left.set_xlabel("layer", fontsize=9)
    called = {NONE: "no expert", PASSED: "passed by"}
    left.set_yticks(range(len(p.places)), [called.get(e) or names[e] for e in p.places], fontsize=9)
    marks = [shade(place, len(names)) if place != PASSED else "white" for place in p.places]
    left.scatter([-0.3] * len(marks), range(len(marks)), marker="s", s=80, c=marks, clip_on=False)
    left.tick_params("y", pad=10)
    left.tick_params(length=0)
    left.spines[:].set_visible(False)
    left.set_title(f"{p.modality}: ways of tokens through the layers", fontsize=10)
    _path_table(right, p)


def _path_table(panel: Axes, p: Paths) -> None:
    panel.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(len(p.paths), -0.2))
    panel.spines[:].set_visible(False)
    panel.set_title(
        f"the {len(p.paths)} most frequent, {100 * sum(s for _, s, _ in p.paths):.0f} % of {p.modality} tokens", fontsize=10
    )
    passed = f", {SIGNS[PASSED]} passed by" if PASSED in p.places else ""
    last = "; words" if any(words for _, _, words in p.paths) else ""
    panel.set_xlabel(f"share of tokens; expert of each layer ({SIGNS[NONE]} none{passed}){last}", fontsize=9)
    for line, (path, share, words) in enumerate(p.paths):
        panel.plot([0.01, 0.06], [line + 0.5] * 2, color=PATH_COLOURS[line], linewidth=3, solid_capstyle="butt")
        panel.text(0.16, line + 0.5, f"{100 * share:.1f} %", va="center", ha="right", fontsize=9)
        way = " ".join(SIGNS.get(e) or str(e - p.places[0] + 1) for e in path)
        panel.text(0.19, line + 0.5, way, va="center", fontsize=9, family="monospace")
        text = GAP.join(words).encode("utf-8", "replace").decode()
        panel.text(0.22 + 0.0128 * len(way), line + 0.5, text, va="center", fontsize=9, parse_math=False, clip_on=True)


def _loads(band: SubFigure, loads: Loads, names: Sequence[str]) -> None:
    across = _across(loads)
    band.suptitle("Held-out rows of each expert over an even share of its group's", fontsize=11)
    panels = band.subplots(math.ceil(len(loads.layers) / across), across, squeeze=False, sharex=True, sharey=True)
    for at, panel in enumerate(panels.flatten()):
        if at >= len(loads.layers):
            panel.set_axis_off()
            continue
        panel.axhline(1, color=GREY, linewidth=0.8, linestyle="--")
        for n, e in enumerate(loads.experts):
            kind = {"color": shade(e, len(names)), "marker": "o", "markersize": 3, "linewidth": 1.4}
            panel.plot(loads.steps, loads.of[:, at, n], **kind, label=names[e])
        panel.set_title(f"layer {loads.layers[at]}", fontsize=10)
        panel.set_ylim(0, 1.05 * max(1.0, float(loads.of.max())))
        if len(loads.steps) <= 6:
            panel.set_xticks(loads.steps)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[-1]:
        panel.set_xlabel("step", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    if len(handles) <= MOST_NAMED:
        band.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)


def _across(loads: Loads) -> int:
    """Panels in a line: few of them leave no hole."""
    return 2 if len(loads.layers) in (2, 4) else min(3, len(loads.layers))
