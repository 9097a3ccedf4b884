"""Rows of a comparison: the seeds of one config, each held against its baseline.

The baseline is one config or, over several sizes, one for each; a row is held against the one whose FLOPs a token are
nearest, which is MoMa's FLOP-matched dense model. What is to be reached is the mean over the baseline's seeds of their losses
at the end; what it took, the mean of their FLOPs, tokens, seconds. Every seed of a row is held against that mean, and a spread
is over them; the baseline's own row says what seeds alone do. Draws and writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from momafuse.comparison import causal
from momafuse.comparison.alike import marks, refuse, same_held_out, same_member, size_of
from momafuse.comparison.curves import AXES, Factors, Spread, factor, spread
from momafuse.comparison.power_law import LEAST, PowerLaw, fit
from momafuse.comparison.run import MEASURES, Run, open_run, run_folders
from momafuse.comparison.seeds import baselines, label_of, seed_groups
from momafuse.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One measure of one part: its end, and how the baseline's end was reached."""

    final: Spread
    difference: float | None  # nats to the baseline's, means over seeds
    factors: Mapping[str, Factors]  # by axis
    points: int  # of the shortest curve


@dataclass(frozen=True)
class Row:
    label: str
    runs: list[Run]
    baseline: str  # the label of its baseline
    is_baseline: bool
    cells: Mapping[str, Mapping[str, Cell]]  # measure -> part, as far as there are losses
    marks: list[str]
    flops_ratio: float  # FLOPs a token over the baseline's

    @property
    def looks_ahead(self) -> bool:
        return self.runs[0].looks_ahead

    @property
    def speed(self) -> Spread | None:
        """Tokens a second: the median over steps of each seed."""
        return spread([run.tokens_per_second for run in self.runs if run.tokens_per_second is not None])


@dataclass(frozen=True)
class Law:
    labels: list[str]  # of the sizes, smallest first
    measure: str
    part: str
    law: PowerLaw


@dataclass(frozen=True)
class Comparison:
    baseline: str  # its label; of several sizes the name of their model
    parts: tuple[str, ...]
    rows: list[Row]
    laws: list[Law]
    notes: list[str]

    @property
    def measures(self) -> tuple[str, ...]:
        """Those that are shown: where every row is causal anyway, held-out losses are the causal ones."""
        return MEASURES if any(row.looks_ahead for row in self.rows) else MEASURES[:2]

    def held_against(self, measure: str) -> list[Row]:
        """The rows that are no baseline, of which there is something to say: the baseline's end is known."""
        others = [row for row in self.rows if not row.is_baseline]
        return [row for row in others if any(cell.difference is not None for cell in row.cells[measure].values())]


def compare(paths: Sequence[str], baseline: str, *, incomplete: bool) -> Comparison:
    """Raises UserError for what cannot be read or may not stand together (alike.py)."""
    paths = run_folders(paths)
    if len(set(map(os.path.realpath, paths))) < len(paths):
        raise UserError("runs: one of them is named twice; name each once")
    opened = [open_run(path) for path in paths if not causal.is_auxiliary(path)]
    routers = [causal.open_auxiliary(path) for path in paths if causal.is_auxiliary(path)]
    if not opened:
        raise UserError("runs: there is no model among them; write runs='[runs/dense,runs/moma_4t4i]'")
    names = [run.name for run in opened]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"runs: two of them are called {name}; copy one under another name")
    for a in routers:
        if a.teacher not in names:
            raise UserError(f"runs: {a.name} holds auxiliary routers of {a.teacher}, which is not among runs; add it")
    groups = seed_groups(opened)
    labels = [label_of(group, groups) for group in groups]
    bases = baselines(baseline, groups, labels)
    first = groups[bases[0]][0]
    for run in opened:
        refuse(run, first, incomplete=incomplete)
    found, notes = [], []
    for group in groups:
        runs = []
        for run in group:
            mine = [a for a in routers if a.teacher == run.name]
            known, said = causal.with_causal(run, mine) if run.looks_ahead else (run, [])
            runs.append(known if same_held_out(run, first) else _without_held_out(known))
            notes += said
        found.append(runs)
    rows = [_row(n, found, labels, bases) for n in (*bases, *(n for n in range(len(groups)) if n not in bases))]
    named = labels[bases[0]] if len(bases) == 1 else baseline
    return Comparison(named, first.parts, rows, _laws(rows), [*notes, *_missing(rows)])


def _without_held_out(run: Run) -> Run:
    return replace(run, curves={**run.curves, "held_out": {}, "causal": {}})


def _row(n: int, groups: Sequence[list[Run]], labels: Sequence[str], bases: Sequence[int]) -> Row:
    runs = groups[n]
    mine = n if n in bases else min(bases, key=lambda b: abs(_ratio(runs, groups[b]) - 1))
    base = groups[mine]
    cells = {measure: _cells(runs, base, measure) for measure in MEASURES}
    return Row(labels[n], runs, labels[mine], n in bases, cells, marks(runs, base), _ratio(runs, base))


def _ratio(runs: Sequence[Run], base: Sequence[Run]) -> float:
    return runs[0].flops_per_token / base[0].flops_per_token


def _cells(runs: Sequence[Run], base: Sequence[Run], measure: str) -> dict[str, Cell]:
    """By part; only where every seed has losses."""
    cells = {}
    for part in runs[0].parts:
        curves = [run.curves[measure].get(part) for run in runs]
        known = [curve for curve in curves if curve is not None]
        if len(known) < len(runs):
            continue
        final = spread([float(curve.loss[-1]) for curve in known])
        target = _target(base, measure, part)
        assert final is not None
        factors = {
            axis: Factors([factor(curve, axis, target, _total(base, measure, part, axis)) for curve in known]) for axis in AXES
        }
        difference = None if target is None else final.mean - target
        cells[part] = Cell(final, difference, factors, min(len(curve) for curve in known))
    return cells


def _target(base: Sequence[Run], measure: str, part: str) -> float | None:
    """The mean of the baseline's losses at the end; None where a seed has none."""
    found = spread([float(c.loss[-1]) for run in base if (c := run.curves[measure].get(part)) is not None])
    return found.mean if found is not None and found.n == len(base) else None


def _total(base: Sequence[Run], measure: str, part: str, axis: str) -> float | None:
    """What the baseline took of an axis until there."""
    curves = [c for run in base if (c := run.curves[measure].get(part)) is not None]
    found = spread([float(c.at[axis][-1]) for c in curves if axis in c.at])
    return found.mean if found is not None and found.n == len(base) else None


def _laws(rows: Sequence[Row]) -> list[Law]:
    """Of each member of which there are enough sizes, each of them once."""
    members: list[list[Row]] = []
    for row in rows:
        mine = next((m for m in members if same_member(m[0].runs[0], row.runs[0])), None)
        if mine is None:
            members.append([row])
        else:
            mine.append(row)
    laws = []
    for member in members:
        sizes = {size_of(row.runs[0]) for row in member}
        if len(sizes) < LEAST or len(sizes) < len(member):
            continue
        by_flops = sorted(member, key=lambda row: row.runs[0].flops)
        for measure in MEASURES if member[0].looks_ahead else MEASURES[:2]:
            for part in member[0].runs[0].parts:
                points = [
                    (row.runs[0].flops, row.cells[measure][part].final.mean) for row in by_flops if part in row.cells[measure]
                ]
                law = fit(points) if len(points) == len(member) else None
                laws += [] if law is None else [Law([row.label for row in by_flops], measure, part, law)]
    return laws


def _missing(rows: Sequence[Row]) -> list[str]:
    """Rows that look ahead and have no causal loss, and what to do."""
    said = []
    for row in rows:
        if not row.cells["causal"] and row.looks_ahead:
            run = row.runs[0]
            train = f"python -m momafuse.train +experiment=aux_routers model_from=ROOT/{run.name}"
            how = (
                f"add its auxiliary routers to runs (`{train}`)"
                if run.config.needs_auxiliary
                else "evaluate it, routing=causal"
            )
            said.append(f"{row.label}: no causal loss of every seed; {how}")
    return said
