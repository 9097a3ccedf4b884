"""Causal losses of runs whose routers see later rows: from the runs of their auxiliary routers, and from `evaluation/`.

A run of `+experiment=aux_routers model_from=RUN` says in its state which checkpoint of RUN it learnt from. Its causal loss is
that of RUN at this checkpoint, one point of the curve; routers that learnt from several checkpoints give several. It stands in
report.json or, if that is over other held-out sequences, in `evaluation/` (python -m momafuse.evaluate). Runs that choose
causally without such routers, but are trained otherwise (limoe_router), have their points in `evaluation/` of their own.

Nothing is made up between points: no gap of causal to training routing is carried from one evaluation to others. With the
last point alone a factor is at best bounded. What the routers' own stage took is said, and not counted into FLOPs or seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np

from momafuse.comparison.curves import Curve
from momafuse.comparison.run import ALL, Run, newest_state
from momafuse.config.compose import load_config
from momafuse.config.inherit import config_file
from momafuse.config.results import config_differences
from momafuse.config.schema import Config
from momafuse.errors import UserError
from momafuse.reports.metrics import read_metrics, read_report

OF_THE_MODEL = ("model.", "data.", "tokenizer.", "objective.", "run.seed")
DIGITS = 1e-9  # relative, of the losses of one table of frequencies

Losses = Mapping[str, float]  # part -> nats


@dataclass(frozen=True)
class Auxiliary:
    """A run of auxiliary routers at its end."""

    name: str
    path: Path
    config: Config
    steps: int
    teacher: str  # the folder of the run that it learnt from
    teacher_step: int
    losses: Losses
    frequencies: Mapping[str, float]
    flops: float  # of its own stage


def is_auxiliary(given: str) -> bool:
    """Whether the path is a run of auxiliary routers. Raises UserError where it is no run."""
    return load_config(config_file(given, "runs").parent / "config.yaml").router.auxiliary


def open_auxiliary(given: str) -> Auxiliary:
    """Raises UserError where it is not at its end, or something of it is missing."""
    path = config_file(given, "runs").parent
    state, config = newest_state(path, f"runs: {given}"), load_config(path / "config.yaml")
    report = read_report(path)
    if report.get("steps") != state["step"]:
        raise UserError(f"runs: {given} is not at its end; run it to its end, or leave it out")
    teacher = PurePath(state["teacher"])
    keys = {ALL: "eval/loss"} | {name: f"eval/loss_{name}" for name in config.modalities}
    return Auxiliary(
        name=path.resolve().name,
        path=path,
        config=config,
        steps=state["step"],
        teacher=teacher.parent.parent.name,
        teacher_step=int(teacher.name.removeprefix("step_")),
        losses={part: report[key] for part, key in keys.items() if key in report},
        frequencies={key: value for key, value in report.items() if key.startswith("unigram/")},
        flops=max((float(row["flops"]) for row in read_metrics(path / "metrics.jsonl")), default=0.0),
    )


def with_causal(run: Run, auxiliaries: Sequence[Auxiliary]) -> tuple[Run, list[str]]:
    """A run that looks ahead with its causal points, and what is to be said of them.

    Raises UserError for auxiliary routers of another run of this name.
    """
    points, said = evaluated(run.path, run), []
    for a in auxiliaries:
        if keys := [k for k in config_differences(run.config, a.config) if k.startswith(OF_THE_MODEL) and k != "data.path"]:
            raise UserError(f"runs: {a.name} learnt from a {run.name} with another {', '.join(keys)}; leave it out")
        losses = a.losses if same_targets(run.frequencies, a.frequencies) else evaluated(a.path, run).get(a.steps)
        if losses is None:
            command = f"python -m momafuse.evaluate run=ROOT/{a.name} routing=causal sequences={sequences_of(run)}"
            said.append(f"{a.name}: held-out sequences are not those of {run.name}, so its loss is left out; `{command}` helps")
            continue
        points[a.teacher_step] = losses
        said.append(f"{a.name}: learnt with {a.flops / run.flops:.1%} of the FLOPs of {run.name}, which are not counted")
    if points and max(points) != run.steps:
        return run, [*said, f"{run.name}: causal losses end at step {max(points)} of {run.steps}, so they are left out"]
    curves = {part: c for part in run.parts if (c := _curve(run, points, part)) is not None}
    return replace(run, curves={**run.curves, "causal": curves}), said


def same_targets(a: Mapping[str, float] | None, b: Mapping[str, float] | None) -> bool:
    """Whether tables of frequencies have the same losses, which says that the held-out targets are the same."""
    if a is None or b is None or a.keys() != b.keys():
        return False
    return all(abs(a[key] - b[key]) <= DIGITS * abs(b[key]) for key in a)


def sequences_of(run: Run) -> int:
    """Held-out sequences of its evaluations: whole pools."""
    return run.config.trainer.eval_sequences // run.config.router.pool * run.config.router.pool


def evaluated(path: Path, run: Run) -> dict[int, Losses]:
    """Step -> causal losses in a folder's `evaluation/`, over the corpus and as many sequences as the run's own evaluations."""
    found: dict[int, Losses] = {}
    for file in sorted((path / "evaluation").glob("step_*.json")):
        e = json.loads(file.read_text(encoding="utf-8"))
        if e["corpus"] is None and e["sequences"] == sequences_of(run) and "causal" in e["routing"]:
            found[e["step"]] = {
                part: e["routing"]["causal"][part]["loss"] for part in run.parts if part in e["routing"]["causal"]
            }
    return found


def _curve(run: Run, points: Mapping[int, Losses], part: str) -> Curve | None:
    """On the axes of the run's own curves; a checkpoint of which metrics.jsonl knows nothing is left out."""
    steps = sorted(step for step in points if part in points[step] and step in run.places)
    if not steps:
        return None
    at = {axis: np.array([run.places[step][axis] for step in steps]) for axis in run.places[steps[0]]}
    return Curve(at, np.array([points[step][part] for step in steps]))
