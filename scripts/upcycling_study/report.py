"""The page of the study from the metrics of its runs: held-out losses over FLOPs, means and deviations, what is gained.

Losses are in nats, FLOPs those of reports/flops.py from the seed's first step on; a deviation is that of a sample (n - 1), 0
for one seed. Gain: the FLOPs that the arm from scratch makes in all, divided by those after which an upcycled run reaches the
last held-out loss of the run from scratch of the same seed; between two evaluations the loss is taken to fall in a line.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from momafuse.reports.metrics import Row, read_metrics

LOSSES = {"eval/loss": "all", "eval/loss_text": "text", "eval/loss_image": "image"}
COLOURS = ("#2a6f97", "#d1603d", "#5b8c5a", "#8a5a9e")
ROUTING = "training routing: sees the future"


@dataclass(frozen=True)
class Arm:
    name: str
    folders: list[Path]  # a run for each seed
    seed_steps: int  # steps of the seed before step 0
    seeds: list[Path] = field(default_factory=list)  # the seed's run for each

    def curves(self) -> list[list[Row]]:
        """The evaluations of each run; `all_steps` counts the seed's steps."""
        found = []
        for folder in self.folders:
            rows = [row for row in read_metrics(folder / "metrics.jsonl") if "eval/loss" in row]
            found.append([{**row, "all_steps": int(row["step"]) + self.seed_steps} for row in rows])
        return found

    def before(self) -> list[Row]:
        """The seed's own evaluation at the step that it is upcycled from, for each."""
        rows = [read_metrics(folder / "metrics.jsonl") for folder in self.seeds]
        return [next(row for row in run if "eval/loss" in row and row["step"] == self.seed_steps) for run in rows]


def write_report(arms: Sequence[Arm], out: Path, command: str, what: str) -> Path:
    """Write upcycling.json, upcycling.png and upcycling.md into `out`; returns the page. The first arm is from scratch."""
    out.mkdir(parents=True, exist_ok=True)
    values = summarise(arms)
    (out / "upcycling.json").write_text(json.dumps({"command": command, "what": what, **values}, indent=1) + "\n")
    draw(arms, out / "upcycling.png")
    page = out / "upcycling.md"
    page.write_text(markdown(values, command, what))
    return page


def summarise(arms: Sequence[Arm]) -> dict[str, Any]:
    """By arm: the curve of each seed, mean and deviation at each point, the jump at step 0, the gain."""
    scratch = arms[0].curves()
    result: dict[str, Any] = {"routing": ROUTING, "arms": {}}
    for arm in arms:
        curves = arm.curves()
        points = {row["all_steps"] for row in curves[0]}
        entry: dict[str, Any] = {"seed_steps": arm.seed_steps, "curves": curves, "points": {}}
        for step in sorted(points):
            rows = [next(row for row in curve if row["all_steps"] == step) for curve in curves]
            losses = {name: spread([float(row[key]) for row in rows]) for key, name in LOSSES.items()}
            entry["points"][str(step)] = {"flops": float(rows[0]["flops"]), **losses}
        if arm.seeds:
            pairs = list(zip(arm.before(), curves, strict=True))
            jumps = {name: [float(curve[0][key]) - float(row[key]) for row, curve in pairs] for key, name in LOSSES.items()}
            entry["jump"] = {name: spread(values) for name, values in jumps.items()}
            entry["gain"] = {
                name: [gain(curve, base, key) for curve, base in zip(curves, scratch, strict=True)]
                for key, name in LOSSES.items()
            }
        result["arms"][arm.name] = entry
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else 0.0}


def gain(curve: Sequence[Row], scratch: Sequence[Row], key: str) -> float | None:
    """How many times the FLOPs of `curve`, where it reaches the last loss of `scratch`, the latter made; None: never."""
    target, total = float(scratch[-1][key]), float(scratch[-1]["flops"])
    points = [(float(row["flops"]), float(row[key])) for row in curve]
    if points[0][1] <= target:
        return total / points[0][0]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y1 <= target < y0:
            return total / (x0 + (x1 - x0) * (y0 - target) / (y0 - y1))
    return None


def draw(arms: Sequence[Arm], out: Path) -> None:
    figure = Figure(figsize=(10.4, 3.9), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, name in zip(panels, ("text", "image"), strict=True):
        for arm, colour in zip(arms, COLOURS, strict=True):
            curves = arm.curves()
            x = [float(row["flops"]) / 1e12 for row in curves[0]]
            y = np.array([[float(row[f"eval/loss_{name}"]) for row in curve] for curve in curves])
            panel.plot(x, y.mean(0), color=colour, marker="o", markersize=3, linewidth=1.4, label=arm.name)
            panel.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.18, linewidth=0)
        panel.set_title(f"{name} tokens")
        panel.set_xlabel("training FLOPs, the seed's counted, in 10^12")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=9)
    panels[0].set_ylabel("held-out loss, nats per token")
    figure.suptitle(f"Mean of the seeds, lowest to highest shaded ({ROUTING})", fontsize=10)
    figure.savefig(out, dpi=150)


def markdown(values: dict[str, Any], command: str, what: str) -> str:
    arms: dict[str, Any] = values["arms"]
    steps = sorted({int(step) for entry in arms.values() for step in entry["points"]} - {0})
    upcycled = {name: entry for name, entry in arms.items() if "gain" in entry}
    last = {name: entry["points"][str(steps[-1])] for name, entry in arms.items()}
    lines = [
        "# Upcycling against training from scratch",
        f"\n    {command}\n",
        f"{what}. moma_4t4i from scratch, and upcycled from moe_1t1i ([upcycling.md](../upcycling.md)). Steps and FLOPs count",
        f"the seed's. Held-out losses in nats, mean ± standard deviation over seeds; {values['routing']}.",
        "\n![held-out losses over FLOPs](upcycling.png)",
        "\n## At the end\n",
        *_table(["FLOPs", *LOSSES.values()], {n: [f"{p['flops']:.4g}", *map(_cell, _losses(p))] for n, p in last.items()}),
        "\n## Gain",
        "\nFLOPs of the run from scratch, divided by those at which its last loss is reached, seed by seed.\n",
        *_table([*LOSSES.values()], {n: [", ".join(map(_times, g)) for g in _losses(e["gain"])] for n, e in upcycled.items()}),
        "\n## The jump at step 0",
        "\nThe upcycled model before its first step, less its seed (whose routing is causal).\n",
        *_table([*LOSSES.values()], {n: [_cell(x, "+") for x in _losses(e["jump"])] for n, e in upcycled.items()}),
    ]
    for loss in ("text", "image"):
        rows = {}
        for step in steps:
            points = [entry["points"].get(str(step)) for entry in arms.values()]
            rows[str(step)] = ["" if p is None else _cell(p[loss]) for p in points]
        lines += [f"\n## Held-out loss of {loss} by step\n", *_table([*arms], rows)]
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: dict[str, list[str]]) -> list[str]:
    """A Markdown table whose first column has no name."""
    lines = ["| | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 1)]
    return lines + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]


def _losses(values: dict[str, Any]) -> list[Any]:
    return [values[name] for name in LOSSES.values()]


def _times(gain: float | None) -> str:
    return "never" if gain is None else f"{gain:.2f}x"


def _cell(value: dict[str, float], sign: str = "") -> str:
    return f"{value['mean']:{sign}.3f} ± {value['std']:.3f}"
