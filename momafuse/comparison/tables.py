"""A comparison as Markdown: factors, losses at the end, throughput, marks. The same stored metrics give the same text.

Figures with a deviation are means over seeds, that of a sample (n - 1). Writes no file (report.py); records.py has the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from momafuse.comparison.curves import WINDOW, Factors, Spread
from momafuse.comparison.rows import Comparison, Law, Row

TITLES = {
    "training": f"Training loss (mean over the last {WINDOW:.0%} of the tokens so far)",
    "held_out": "Held-out loss, under the routing of evaluations",
    "causal": "Held-out loss, causal routing",
}
AHEAD = "†"  # routing sees the future
NEVER = "not reached"
NONE = "-"
LEGEND = (
    "η: FLOPs of the baseline over those at which its loss at the end is first reached; s: the share of its steps that this "
    "took, in tokens; seconds: as η. [..]: what the two evaluations around the crossing allow. ≥: below that loss at the first "
    f"point already. For good: after the last time that it was above. {NEVER} (+d): the lowest point is d nats above it. "
    f"{AHEAD}: routing sees the future, no honest predictor."
)


def markdown(c: Comparison) -> str:
    """Tables of factors, of losses at the end, of throughput; what each row is marked with; notes and laws."""
    bases = [row for row in c.rows if row.is_baseline]
    seeds = ", ".join(f"`{row.label}` ({len(row.runs)} seed{'s' * (len(row.runs) > 1)})" for row in bases)
    lines = [f"# Held against {c.baseline}", "", f"Baseline: {seeds}. {LEGEND}"]
    for measure in c.measures:
        rows = c.held_against(measure)
        if rows:
            causal = ", all causal" if measure == "held_out" and "causal" not in c.measures else ""
            lines += ["", f"## {TITLES[measure]}{causal}", "", *_factors(c, rows, measure)]
    lines += ["", "## Losses at the end, nats; to the baseline's", "", *_finals(c)]
    lines += ["", "## Throughput", "", *_throughput(c)]
    lines += ["", "## Rows", "", *_marks(c)]
    lines += ["", "## Power laws over sizes", "", *map(law_line, c.laws)] if c.laws else []
    lines += ["", "## Notes", "", *(f"- {note}" for note in c.notes)] if c.notes else []
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _factors(c: Comparison, rows: Sequence[Row], measure: str) -> list[str]:
    columns = [(axis, part) for axis in ("η", "s", "seconds") for part in c.parts]
    head = ["run", "seeds", *(f"{axis} {part}" for axis, part in columns)]
    lines = []
    for row in rows:
        cells = row.cells[measure]
        found = []
        for axis, part in columns:
            by_axis = cells[part].factors if part in cells else {}
            key = {"η": "flops", "s": "tokens", "seconds": "seconds"}[axis]
            shown = {"limits": axis == "η" and measure != "training", "share": axis == "s", "gaps": axis == "η"}
            found.append(said(by_axis[key], **shown) if by_axis else NONE)
        ahead = AHEAD if row.looks_ahead and measure != "causal" else ""
        lines.append([f"`{row.label}`{ahead}", str(len(row.runs)), *found])
    return _table(head, lines)


def said(factors: Factors, *, limits: bool = False, share: bool = False, gaps: bool = True) -> str:
    """A factor, or with `share` its inverse; the limits that points set, and how far off those are that never get there."""
    if factors.state == "missing":
        return NONE
    found = factors.shares if share else factors.found
    never = NEVER + (f" (+{factors.gap.mean:.3f})" if factors.gap is not None and gaps else "")
    if found is None:
        return never
    if bounded := any(f.state == "bound" for f in factors.each):
        found = Spread(found.mean, None, found.n)  # a deviation of bounds says nothing
    value = ("≤ " if share else "≥ ") * bounded + number(found)
    if factors.state == "never":
        return f"{value} in {found.n} of {len(factors.each)}, else {never}"
    if factors.comes_back and not share:
        stays = factors.lasting
        value += " (not for good)" if stays is None or stays.n < found.n else f" (for good {number(stays)})"
    between = factors.limits if limits else None
    return value + (f" [{between[0]:.2f}, {between[1]:.2f}]" if between is not None else "")


def number(found: Spread, digits: int = 2) -> str:
    return f"{found.mean:.{digits}f}" + (f" ± {found.std:.{digits}f}" if found.std is not None else "")


def _finals(c: Comparison) -> list[str]:
    columns = [(measure, part) for measure in c.measures for part in c.parts]
    head = ["run", *(f"{measure.replace('_', ' ')} {part}" for measure, part in columns)]
    lines = []
    for row in c.rows:
        found = []
        for measure, part in columns:
            cell = row.cells[measure].get(part)
            ahead = AHEAD if row.looks_ahead and measure != "causal" else ""
            difference = "" if cell is None or cell.difference is None or row.is_baseline else f" ({cell.difference:+.3f})"
            found.append(NONE if cell is None else number(cell.final, 3) + ahead + difference)
        lines.append([f"`{row.label}`", *found])
    return _table(head, lines)


def _throughput(c: Comparison) -> list[str]:
    """In the manner of MoMa's Table 2: speed beside that of the baseline, at the FLOPs that a token costs."""
    speeds = {row.label: row.speed for row in c.rows}
    lines = []
    for row in c.rows:
        speed, base = speeds[row.label], speeds[row.baseline]
        relative = speed.mean / base.mean if speed is not None and base is not None else None
        found = [NONE, NONE, NONE] if speed is None else [number(speed, 0), *_per_cent(relative, row.flops_ratio)]
        lines.append([f"`{row.label}`", f"{row.flops_ratio:.3f}", *found])
    return _table(["run", "FLOPs a token to the baseline's", "tokens a second", "to the baseline's", "FLOPs a second"], lines)


def _per_cent(relative: float | None, flops: float) -> list[str]:
    return [NONE, NONE] if relative is None else [f"{relative - 1:+.1%}", f"{relative * flops - 1:+.1%}"]


def _marks(c: Comparison) -> list[str]:
    lines = []
    for row in c.rows:
        folders = ", ".join(f"{run.name} (seed {run.config.run.seed})" for run in row.runs)
        against = "" if row.is_baseline else f"`{row.baseline}`"
        lines.append([f"`{row.label}`", folders, str(row.runs[0].steps), against, "; ".join(row.marks)])
    return _table(["row", "runs", "steps", "against", "marks"], lines)


def law_line(law: Law) -> str:
    p = law.law
    floor = "" if p.c is None else f" + {p.c:.3f}"
    points = ", ".join(
        f"{loss:.3f} at {flops:.3g} (`{label}`)" for label, (flops, loss) in zip(law.labels, p.points, strict=True)
    )
    fitted = f"L(C) = {p.a:.3f} (C / {p.unit:.3g})^-{p.b:.4f}{floor}, residual {p.residual:.4f} nats"
    of = f"`{law.labels[0]}` to `{law.labels[-1]}`, {law.measure.replace('_', ' ')}, {law.part}"
    return f"- {of}: {fitted}; points: {points}. Holds between them."
