"""The figures of a comparison, in the manner of MoMa's Figures 3 to 6: losses over FLOPs with the baseline's end as a line.

    training.png   smoothed training loss over FLOPs, a panel for all targets and for each modality; a ring where a seed crosses
    held_out.png   the same of evaluations: filled under causal routing, hollow under routing that sees the future
    seconds.png    training loss over seconds
    ends.png       held-out losses at the end less the baseline's, a dot a seed, causal ones filled
    factors.png    eta of each row by modality, training, held out and causal; bars over seeds, triangles for bounds
    sizes.png      loss at the end over FLOPs of the members that have a power law, drawn between their points

Losses of the first FLOPs, far above what is compared, are cut off. matplotlib without pyplot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from momafuse.comparison import summary_figures
from momafuse.comparison.curves import Curve
from momafuse.comparison.rows import Comparison, Row
from momafuse.comparison.style import cut, plain, shade_of
from momafuse.reports.plots import DPI, GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("training.png", "held_out.png", "seconds.png", "ends.png", "factors.png", "sizes.png")
SHOWN_FROM = 0.08  # of an axis: where curves are drawn from
UNITS = {"flops": "training FLOPs", "seconds": "seconds of training steps"}


def draw(c: Comparison, out: Path) -> list[str]:
    """Returns the names of those that there is something for."""
    drawn = {
        "training.png": _curves(c, ["training"], "flops"),
        "held_out.png": _curves(c, ["held_out", "causal"], "flops"),
        "seconds.png": _curves(c, ["training"], "seconds"),
        "ends.png": summary_figures.ends(c),
        "factors.png": summary_figures.factors(c),
        "sizes.png": summary_figures.sizes(c),
    }
    for name, figure in drawn.items():
        if figure is not None:
            figure.savefig(out / name, dpi=DPI)
    return [name for name, figure in drawn.items() if figure is not None]


def _curves(c: Comparison, measures: Sequence[str], axis: str) -> Figure | None:
    drawn = [(row, m) for row in c.rows for m in measures if row.cells[m] and all(_has(row, m, p, axis) for p in row.cells[m])]
    if not drawn:
        return None
    figure = new_figure(4.6 * len(c.parts), 4.4)
    panels = figure.subplots(1, len(c.parts), squeeze=False)[0]
    for panel, part in zip(panels, c.parts, strict=True):
        shown: list[tuple[float, float]] = []
        for row, measure in drawn:
            if part not in row.cells[measure] or (measure == "causal" and not row.looks_ahead):
                continue  # where routing is causal anyway, these are the held-out points
            for run in row.runs:
                curve = run.curves[measure][part]
                _line(panel, c, row, curve, axis, measure)
                late = curve.at[axis] >= SHOWN_FROM * curve.at[axis][-1]
                shown += zip(curve.at[axis][late], curve.loss[late], strict=True)
            _crossings(panel, c, row, measure, part, axis)
        _ends(panel, c, measures[0], part)
        cut(panel, shown)
        panel.set_title("all targets" if part == "all" else f"{part} tokens", fontsize=10)
        panel.set_xlabel(UNITS[axis], fontsize=9)
        plain(panel)
    panels[0].set_ylabel("cross-entropy, nats per token", fontsize=9)
    _legend(figure, c, [row for row in c.rows if any(row is r for r, _ in drawn)], measures)
    return figure


def _has(row: Row, measure: str, part: str, axis: str) -> bool:
    return all(axis in run.curves[measure][part].at for run in row.runs)


def _line(panel: Axes, c: Comparison, row: Row, curve: Curve, axis: str, measure: str) -> None:
    shade, x = shade_of(c, row), curve.at[axis]
    shown = x > 0
    ahead = row.looks_ahead and measure == "held_out"
    marker = "" if measure == "training" else "D" if measure == "causal" and row.looks_ahead else "o"
    style = ":" if ahead else "" if measure == "causal" else "-"
    face = "white" if ahead else shade
    panel.plot(x[shown], curve.loss[shown], color=shade, linestyle=style, linewidth=1.3, marker=marker, markersize=4.5,
               markerfacecolor=face, zorder=3 if row.is_baseline else 2)  # fmt: skip


def _crossings(panel: Axes, c: Comparison, row: Row, measure: str, part: str, axis: str) -> None:
    """Where each seed comes down to the baseline's end."""
    if row.is_baseline:
        return
    base = next(one for one in c.rows if one.label == row.baseline)
    target, ends = base.cells[measure][part].final.mean if part in base.cells[measure] else None, base.runs
    if target is None:
        return
    total = float(np.mean([run.curves[measure][part].at[axis][-1] for run in ends]))
    for found in row.cells[measure][part].factors[axis].each:
        if found.state == "reached" and found.value is not None:
            panel.plot(
                [total / found.value], [target], "o", markersize=9, markerfacecolor="none", color=shade_of(c, row), zorder=4
            )


def _ends(panel: Axes, c: Comparison, measure: str, part: str) -> None:
    for row in c.rows:
        if row.is_baseline and part in row.cells[measure]:
            panel.axhline(row.cells[measure][part].final.mean, color=shade_of(c, row), linestyle="--", linewidth=0.9, zorder=1)


def _legend(figure: Figure, c: Comparison, rows: Sequence[Row], measures: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for row in rows:
        ahead = " †" if row.looks_ahead else ""
        seeds = f", {len(row.runs)} seeds" if len(row.runs) > 1 else ""
        handles.append(Line2D([], [], color=shade_of(c, row), label=row.label + ahead + seeds))
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="end of the baseline"))
    marks: dict[str, Any] = {"marker": "o", "color": GREY, "linestyle": ""}
    handles.append(Line2D([], [], **marks, markerfacecolor="none", markersize=9, label="where it is reached"))
    if "causal" in measures and any(row.looks_ahead for row in rows):
        handles.append(Line2D([], [], **marks, markerfacecolor="white", markersize=4.5, label="† routing sees the future"))
        if any(row.looks_ahead and row.cells["causal"] for row in rows):
            handles.append(Line2D([], [], color=GREY, linestyle="", marker="D", markersize=4.5, label="the same runs, causal"))
    elif any(row.looks_ahead for row in rows):
        handles.append(Line2D([], [], color="none", label="† routing sees the future"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
