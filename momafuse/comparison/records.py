"""A comparison as JSON and as lines of a CSV: every seed, no dates, no paths.

Numbers have 9 significant digits, more than a loss in single precision has: sums differ in the last ones between processors,
and the files should not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from momafuse.comparison.curves import WINDOW, Factors, Spread
from momafuse.comparison.rows import Comparison, Row
from momafuse.comparison.run import MEASURES


def rounded(value: Any) -> Any:
    """Every float in it to 9 significant digits."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def as_json(c: Comparison) -> dict[str, Any]:
    found: dict[str, Any] = rounded(_as_json(c))
    return found


def _as_json(c: Comparison) -> dict[str, Any]:
    return {
        "baseline": c.baseline,
        "window": WINDOW,
        "rows": [_row_json(row) for row in c.rows],
        "power_laws": [
            {"labels": w.labels, "measure": w.measure, "part": w.part, "a": w.law.a, "b": w.law.b, "c": w.law.c}
            | {"unit": w.law.unit, "residual": w.law.residual, "points": [list(p) for p in w.law.points]}
            for w in c.laws
        ],
        "notes": c.notes,
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "label": row.label,
        "baseline": row.baseline,
        "is_baseline": row.is_baseline,
        "sees_the_future": row.looks_ahead,
        "marks": row.marks,
        "flops_per_token_to_baseline": row.flops_ratio,
        "tokens_per_second": _spread(row.speed),
        "runs": [
            {"name": r.name, "seed": r.config.run.seed, "steps": r.steps, "tokens": r.tokens, "flops": r.flops}
            | {"seconds": r.seconds, "machine": r.machine, "complete": r.report is not None, "revision": r.revision}
            for r in row.runs
        ],
        "measures": {
            measure: {
                part: {"final": _spread(cell.final), "difference": cell.difference, "points": cell.points}
                | {axis: _factors_json(f) for axis, f in cell.factors.items()}
                for part, cell in cells.items()
            }
            for measure, cells in row.cells.items()
        },
    }


def _spread(found: Spread | None) -> dict[str, float | int | None] | None:
    return None if found is None else {"mean": found.mean, "std": found.std, "n": found.n}


def _factors_json(f: Factors) -> dict[str, Any]:
    each = [
        {"state": x.state, "value": x.value, "low": x.low, "high": x.high, "lasting": x.lasting, "gap": x.gap} for x in f.each
    ]
    return {
        "state": f.state,
        "factor": _spread(f.found),
        "share": _spread(f.shares),
        "lasting": _spread(f.lasting),
        "gap": _spread(f.gap),
        "seeds": each,
    }


CSV = ("run", "baseline", "seeds", "measure", "part", "sees_the_future", "final", "final_std", "difference", "reached",
       "eta_state", "eta", "eta_std", "eta_low", "eta_high", "eta_lasting", "gap", "share_of_steps", "share_of_steps_std",
       "seconds_state", "seconds_factor", "seconds_factor_std", "flops_per_token_to_baseline", "tokens_per_second",
       "marks")  # fmt: skip


def lines(c: Comparison) -> list[list[Any]]:
    """A line for each row, measure and part, of the columns CSV; None where there is nothing."""
    return [
        _line(row, measure, part) for row in c.rows for measure in MEASURES for part in c.parts if part in row.cells[measure]
    ]


def _line(row: Row, measure: str, part: str) -> list[Any]:
    cell = row.cells[measure][part]
    flops, seconds = cell.factors["flops"], cell.factors["seconds"]
    limits = flops.limits or (None, None)
    ahead = row.looks_ahead and measure != "causal"
    values: Mapping[str, Any] = {
        "run": row.label, "baseline": row.baseline, "seeds": len(row.runs), "measure": measure, "part": part,
        "sees_the_future": ahead, "difference": cell.difference, "reached": flops.found.n if flops.found else 0,
        "eta_state": flops.state, "eta_low": limits[0], "eta_high": limits[1],
        "eta_lasting": flops.lasting.mean if flops.lasting else None, "gap": flops.gap.mean if flops.gap else None,
        "seconds_state": seconds.state, "flops_per_token_to_baseline": row.flops_ratio,
        "tokens_per_second": row.speed.mean if row.speed else None, "marks": "; ".join(row.marks),
        **_pair("final", cell.final), **_pair("eta", flops.found), **_pair("share_of_steps", cell.factors["tokens"].shares),
        **_pair("seconds_factor", seconds.found),
    }  # fmt: skip
    return [rounded(values[column]) for column in CSV]


def _pair(name: str, found: Spread | None) -> dict[str, float | None]:
    return {name: None, f"{name}_std": None} if found is None else {name: found.mean, f"{name}_std": found.std}
