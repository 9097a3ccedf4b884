"""The card that a layer is drawn on, from top to bottom, and the 16 tokens that all cards show.

Text tokens are blue squares, image tokens orange circles. Weights that only text uses stand in blue boxes, those that only
images use in orange ones, those that both use in grey ones; a white box has no matrix. An SVG comes out as the same bytes
again: ids come from a fixed salt, letters are drawn as paths, no date is written.

x and y are CSS pixels from the upper left corner. Knows no layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve

from momafuse.reports.plots import COLOURS, GREY

POINT = 0.75  # of a CSS pixel
INK, PALE = "#222222", "#c8c8c8"
EDGE = {"text": COLOURS[0], "image": COLOURS[1], "all": GREY, "none": GREY}
TINT = {"text": "#e4eff6", "image": "#fbe9e2", "all": "#ececec", "none": "white"}

WIDTH, LEFT, RIGHT = 700.0, 34.0, 666.0
TOKEN, BOX, ARROW = 34.0, 46.0, 26.0  # heights
STREAM = ["text"] * 3 + ["image"] * 8 + ["text"] * 5
LANES = {i: LEFT + 20 + 39.5 * i for i in range(len(STREAM))}  # where tokens stand in order of sequence

Places = dict[int, float]  # token -> x
Place = tuple[float, float]  # left edge and width
Point = tuple[float, float]

WHOLE: Place = (LEFT, RIGHT - LEFT)
HALF: dict[str, Place] = {"text": (LEFT, 308.0), "image": (RIGHT - 308.0, 308.0)}


def of(kind: str) -> list[int]:
    """The tokens of a modality, or all."""
    return [i for i, k in enumerate(STREAM) if kind in (k, "all")]


def spread(numbers: Sequence[int], place: Place) -> Places:
    """Tokens at equal distances within a width."""
    x, w = place
    return {i: x + w * (n + 0.5) / len(numbers) for n, i in enumerate(numbers)}


class Sheet:
    """A white card; `y` is where the next thing goes."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.y = 52.0
        self.figure = Figure()
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.text(LEFT, 25, title, size=15, bold=True, align="left")
        for kind, x in (("text", 470.0), ("image", 570.0)):
            self.token(x, 25, kind, size=14)
            self.text(x + 14, 25, f"{kind} token", align="left")

    def save(self, path: Path) -> None:
        """As high as what was drawn."""
        height = self.y + 20
        self.figure.set_size_inches(WIDTH / 96, height / 96)
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.frame(1, 1, WIDTH - 2, height - 2, "white", PALE, radius=12, order=0)
        with mpl.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "path"}):
            metadata = {"Date": None, "Title": self.title}
            self.figure.savefig(path, format="svg", transparent=True, metadata=metadata)

    # Strokes: they leave `y` where it is.

    def text(
        self, x: float, y: float, words: str, size: float = 12, colour: str = INK, bold: bool = False, align: str = "center"
    ) -> None:
        weight = "bold" if bold else "normal"
        self.axes.text(x, y, words, size=size * POINT, color=colour, weight=weight, ha=align, va="center_baseline")

    def lines(self, x: float, y: float, title: str, below: str = "") -> None:
        """A bold line, and a plain one below it, about the middle (x, y)."""
        self.text(x, y - (9 if below else 0), title, size=13, bold=True)
        self.text(x, y + 10, below)

    def frame(self, x: float, y: float, w: float, h: float, face: str, edge: str, radius: float = 6, order: float = 1) -> None:
        style = f"round,pad=0,rounding_size={radius}"
        patch = FancyBboxPatch((x, y), w, h, style, facecolor=face, edgecolor=edge, linewidth=POINT, zorder=order)
        self.axes.add_patch(patch)

    def token(self, x: float, y: float, kind: str, label: str = "", size: float = 26, taken: bool = True) -> None:
        face, edge = (EDGE[kind], EDGE[kind]) if taken else ("white", PALE)
        if kind == "image":
            self.axes.add_patch(Circle((x, y), size / 2, facecolor=face, edgecolor=edge, linewidth=POINT))
        else:
            self.frame(x - size / 2, y - size / 2, size, size, face, edge, radius=3)
        self.text(x, y, label, size=size * 0.46, colour="white")

    def arrow(self, *points: Point, kind: str, wide: float = 1.3, dashed: bool = False) -> None:
        """Through the points, upright at each of them, with its tip at the last."""
        x, tip = points[-1]
        stops = [*points[:-1], (x, tip - 5)]
        path, codes = [stops[0]], [Curve.MOVETO]
        for (x0, y0), (x1, y1) in pairwise(stops):
            middle = (y0 + y1) / 2
            path += [(x0, middle), (x1, middle), (x1, y1)]
            codes += [Curve.CURVE4] * 3
        style = (0, (2.5, 2.5)) if dashed else "-"
        line = PathPatch(Curve(path, codes), facecolor="none", edgecolor=EDGE[kind], linewidth=wide * POINT, linestyle=style)
        self.axes.add_patch(line)
        self.axes.add_patch(Polygon([(x, tip), (x - 3.5, tip - 7), (x + 3.5, tip - 7)], facecolor=EDGE[kind], edgecolor="none"))

    def block_arrow(self, x: float, y: float, kind: str, label: str) -> None:
        """A thick one with words, 34 high."""
        outline = [(-62, 0), (62, 0), (62, 22), (14, 22), (0, 34), (-14, 22), (-62, 22)]
        self.axes.add_patch(Polygon([(x + dx, y + dy) for dx, dy in outline], facecolor=EDGE[kind], edgecolor="none"))
        self.text(x, y + 11, label, colour="white")

    # Steps: the next thing goes under them.

    def tokens(self, marked: Sequence[int] = ()) -> None:
        for i, kind in enumerate(STREAM):
            if i in marked:
                self.frame(LANES[i] - TOKEN / 2, self.y, TOKEN, TOKEN, "white", INK, radius=7)
            self.token(LANES[i], self.y + TOKEN / 2, kind, str(i + 1))
        self.y += TOKEN

    def boxes(self, *boxes: tuple[str, Place, str, str], h: float = BOX) -> None:
        """Side by side: whose weights, where, a bold line, a plain one."""
        for kind, (x, w), title, below in boxes:
            self.frame(x, self.y, w, h, TINT[kind], EDGE[kind])
            self.lines(x + w / 2, self.y + h / 2, title, below)
        self.y += h

    def box(self, kind: str, title: str, below: str = "", place: Place = WHOLE) -> None:
        self.boxes((kind, place, title, below))

    def box_each(self, title: str, below: str) -> None:
        """One for text and one for images, which `{}` in the lines becomes."""
        self.boxes(*((kind, place, title.format(kind), below.format(kind)) for kind, place in HALF.items()))

    def move(self, at: Places, to: Places, drop: float = ARROW, times: Mapping[int, int] | None = None) -> None:
        """Arrows of the tokens in both. `times`: how many experts took each; dashed where none did, thick where several."""
        for i in sorted(at.keys() & to.keys()):
            n = 1 if times is None else times[i]
            points = (at[i], self.y), (to[i], self.y + drop)
            self.arrow(*points, kind=STREAM[i], wide=2.6 if n > 1 else 1.3, dashed=n == 0)
        self.y += drop
