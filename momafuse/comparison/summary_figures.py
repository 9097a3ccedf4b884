"""The figures of a comparison with a dot for what came out: speed-ups of rows, their ends, losses over sizes (figures.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from momafuse.comparison.rows import Comparison, Row
from momafuse.comparison.style import MEASURED, cut, plain, shade_of
from momafuse.reports.plots import GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PART_COLOURS = ("black", "#2a6f97", "#d1603d", "#5b8c5a", "#7b5ea7", "#b08a2e")


def factors(c: Comparison) -> Figure | None:
    """A line for each row that is no baseline, a panel for each measure; None without rows."""
    rows = [row for row in c.rows if not row.is_baseline]
    measures = [m for m in c.measures if c.held_against(m)]
    if not rows or not measures:
        return None
    figure = new_figure(1.8 + 3.6 * len(measures), 1.3 + (0.25 + 0.17 * len(c.parts)) * len(rows))
    panels = figure.subplots(1, len(measures), squeeze=False, sharey=True, sharex=True)[0]
    offsets = np.linspace(-0.27, 0.27, len(c.parts))
    for panel, measure in zip(panels, measures, strict=True):
        panel.axvline(1, color=GREY, linewidth=0.9, linestyle="--")
        for y, row in enumerate(rows):
            for part, offset, shade in zip(c.parts, offsets, PART_COLOURS, strict=False):
                if part in row.cells[measure]:
                    _dot(panel, row, measure, part, y + float(offset), shade)
        panel.set_title(MEASURED[measure], fontsize=10)
        panel.set_xlabel("η, FLOPs", fontsize=9)
        panel.margins(x=0.12)
        plain(panel)
        panel.grid(False, axis="y")
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    panels[0].set_yticks(range(len(rows)), [row.label + " †" * row.looks_ahead for row in rows])
    _key(figure, c)
    return figure


def ends(c: Comparison) -> Figure | None:
    """Held-out losses at the end less the baseline's, a panel for each part, a dot for each seed; None without rows."""
    rows = [row for row in c.rows if row.cells["held_out"] or row.cells["causal"]]
    if len(rows) < 2:
        return None
    figure = new_figure(1.8 + 3.2 * len(c.parts), 1.2 + 0.3 * len(rows))
    panels = figure.subplots(1, len(c.parts), squeeze=False, sharey=True)[0]
    for panel, part in zip(panels, c.parts, strict=True):
        panel.axvline(0, color=GREY, linewidth=0.9, linestyle="--")
        for y, row in enumerate(rows):
            for measure in ("held_out", "causal"):
                if part in row.cells[measure] and row.cells[measure][part].difference is not None:
                    _end(panel, c, row, measure, part, y)
        panel.set_title("all targets" if part == "all" else f"{part} tokens", fontsize=10)
        panel.set_xlabel("nats to the baseline's", fontsize=9)
        panel.margins(x=0.08)
        plain(panel)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
    _end_key(figure, rows)
    return figure


def _end(panel: Axes, c: Comparison, row: Row, measure: str, part: str, y: int) -> None:
    shade = shade_of(c, row)
    ahead = row.looks_ahead and measure == "held_out"
    cell = row.cells[measure][part]
    difference = cell.difference or 0.0
    base = cell.final.mean - difference
    each = [run.curves[measure][part].loss[-1] - base for run in row.runs]
    if not ahead:
        panel.plot([difference] * 2, [y - 0.3, y + 0.3], color=shade, linewidth=1.6)
    panel.plot(each, [y] * len(each), "o", color=shade, markersize=4.5, markerfacecolor="white" if ahead else shade)


def _end_key(figure: Figure, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    marks: dict[str, Any] = {"color": GREY, "linestyle": "", "markersize": 4.5}
    handles = [Line2D([], [], marker="o", **marks, label="a seed, causal"), Line2D([], [], marker="|", **marks, label="mean")]
    if any(row.looks_ahead for row in rows):
        handles.append(Line2D([], [], marker="o", markerfacecolor="white", **marks, label="routing sees the future"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def _dot(panel: Axes, row: Row, measure: str, part: str, y: float, shade: str) -> None:
    factors = row.cells[measure][part].factors["flops"]
    found, gap = factors.found, factors.gap
    if found is not None:
        marker = ">" if any(f.state == "bound" for f in factors.each) else "o"
        filled = shade if factors.state != "never" else "white"
        if factors.comes_back and factors.lasting is not None:
            panel.plot([factors.lasting.mean, found.mean], [y, y], color=shade, linewidth=0.8, linestyle=":", marker="|")
        panel.errorbar(found.mean, y, xerr=found.std, fmt=marker, color=shade, markersize=5, capsize=2, markerfacecolor=filled)
    elif gap is not None:
        place = panel.get_yaxis_transform()  # x a share of the panel
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # over the line at 1
        said = f"not reached, +{gap.mean:.3f}"
        panel.text(0.015, y, said, transform=place, color=shade, fontsize=7, va="center", bbox=plate)


def _key(figure: Figure, c: Comparison) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", linestyle="", color=s, label=p) for p, s in zip(c.parts, PART_COLOURS, strict=False)]
    others = [row for row in c.rows if not row.is_baseline]
    found = [f for row in others for cells in row.cells.values() for cell in cells.values() for f in [cell.factors["flops"]]]
    if any(one.state == "bound" for f in found for one in f.each):
        handles.append(Line2D([], [], marker=">", linestyle="", color=GREY, label="at least"))
    if any(f.comes_back and f.lasting is not None for f in found):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=":", marker="|", label="to where it is for good"))
    if any(f.state == "never" and f.found is not None for f in found):
        some = "not all seeds get there"
        handles.append(Line2D([], [], marker="o", linestyle="", color=GREY, markerfacecolor="white", label=some))
    if any(row.looks_ahead for row in c.rows):
        handles.append(Line2D([], [], color="none", label="† routing sees the future, but for causal"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=9)


def sizes(c: Comparison) -> Figure | None:
    """The power laws between their points; None where there are none."""
    measures = list(dict.fromkeys(law.measure for law in c.laws))
    if not measures:
        return None
    figure = new_figure(4.6 * len(c.parts), 3.4 * len(measures))
    grid = figure.subplots(len(measures), len(c.parts), squeeze=False)
    by_label = {row.label: row for row in c.rows}
    for measure, line in zip(measures, grid, strict=True):
        for part, panel in zip(c.parts, line, strict=True):
            laws = [law for law in c.laws if (law.measure, law.part) == (measure, part)]
            cut(panel, [point for law in laws for point in law.law.points])
            for law in laws:
                shade = shade_of(c, by_label[law.labels[0]])
                flops, loss = np.array(law.law.points).T
                x = np.geomspace(flops[0], flops[-1], 100)
                floor = "" if law.law.c is None else f" + {law.law.c:.2f}"
                named = f"{law.labels[0]} ..: $C^{{-{law.law.b:.3f}}}${floor}"
                panel.plot(flops, loss, "o", color=shade, markersize=5)
                panel.plot(x, law.law(x), color=shade, linewidth=1.2, label=named)
            panel.set_title(f"{MEASURED[measure]}, {part}", fontsize=10)
            panel.set_xlabel("training FLOPs of a run", fontsize=9)
            panel.legend(frameon=False, fontsize=8)
            plain(panel)
        line[0].set_ylabel("nats per token, at the end", fontsize=9)
    return figure
