"""How figures of a comparison look: a colour a row, axes with few numbers. matplotlib without pyplot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from momafuse.comparison.rows import Comparison, Row
from momafuse.reports.drawing import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED = {"training": "training loss", "held_out": "held out, routing of evaluations", "causal": "held out, causal"}


def shade_of(c: Comparison, row: Row) -> tuple[float, float, float]:
    """The baselines are black and grey, the others of the colours of experts."""
    bases = [one.label for one in c.rows if one.is_baseline]
    others = [one.label for one in c.rows if not one.is_baseline]
    if row.is_baseline:
        level = 0.6 * bases.index(row.label) / len(bases)
        return level, level, level
    r, g, b = colour(others.index(row.label), len(others))
    return r / 255, g / 255, b / 255


def cut(panel: Axes, shown: Sequence[tuple[float, float]]) -> None:
    """To the points (x, loss), on a logarithmic axis with few numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    x, loss = np.array(shown).T
    room = 0.04 * (loss.max() - loss.min()) + 1e-3
    panel.set_ylim(loss.min() - room, loss.max() + room)
    panel.set_xscale("log")
    panel.set_xlim(x.min() / 1.1, x.max() * 1.1)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if x.max() < 300 * x.min() else (1,)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e6 else f"{value:.0e}"))


def plain(panel: Axes) -> None:
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25, which="both")
    panel.spines[["top", "right"]].set_visible(False)
