"""Which runs are seeds of one row, what a row is called, and which rows are the baseline."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from momafuse.comparison.alike import seeds_of_one, size_of
from momafuse.comparison.run import Run
from momafuse.errors import UserError


def seed_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that are seeds of one config, in the order given, by seed within. Raises UserError for one seed twice."""
    groups: list[list[Run]] = []
    for run in runs:
        mine = next((group for group in groups if seeds_of_one(group[0], run)), None)
        if mine is None:
            groups.append([run])
        elif run.config.run.seed in (seeds := [other.config.run.seed for other in mine]):
            twin = mine[seeds.index(run.config.run.seed)].name
            raise UserError(f"runs: {run.name} and {twin} are the same run twice, of one config and seed; leave one out")
        else:
            mine.append(run)
    return [sorted(group, key=lambda run: run.config.run.seed) for group in groups]


def label_of(group: Sequence[Run], groups: Sequence[Sequence[Run]]) -> str:
    """What names of the seeds' folders begin with; the first name where that is little or another row's."""

    def shared(runs: Sequence[Run]) -> str:
        letters = itertools.takewhile(lambda at: len(set(at)) == 1, zip(*(run.name for run in runs), strict=False))
        name = "".join(at[0] for at in letters)
        return name if len(runs) == 1 else name.removesuffix("run.seed=").rstrip("-_. ") or runs[0].name

    name = shared(group)
    return name if [shared(other) for other in groups].count(name) == 1 else group[0].name


def baselines(baseline: str, groups: Sequence[Sequence[Run]], labels: Sequence[str]) -> list[int]:
    """The rows that `baseline` names: all sizes of a model by its name, else one by its label or the name or path of a run.

    Raises UserError where there is none, or two of one size.
    """
    real = os.path.realpath(Path(baseline).expanduser())
    of_model = [n for n, group in enumerate(groups) if group[0].config.model.name == baseline]
    exact = [
        n
        for n, group in enumerate(groups)
        if baseline in (labels[n], *(run.name for run in group)) or any(os.path.realpath(run.path) == real for run in group)
    ]
    for found in (of_model, exact):
        if found and len({size_of(groups[n][0]) for n in found}) == len(found):
            return found
    if of_model:
        twins = ", ".join(labels[n] for n in of_model)
        raise UserError(f"baseline={baseline}: are several rows of one size; name one of {twins}")
    raise UserError(f"baseline={baseline}: is none of runs; name one of {', '.join(labels)}")
