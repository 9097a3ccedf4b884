"""What may stand beside what: runs that are refused, that are seeds of one row, and what a row is marked with.

    refused   other tokenizers, corpus, mixture, tokens of each modality in a sequence, or objective: their losses are not of
              the same targets; runs that are not at their end, unless `incomplete` is asked for
    one row   runs whose configs differ in nothing that changes results but the seed, as long and in the same precision;
              upcycled ones made of as much of a seed
    marked    everything else in which a row and its baseline differ and that is not the architecture or its routers

Says nothing about which machine a run was on: runs do not record it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

from momafuse.comparison.causal import same_targets
from momafuse.comparison.run import Run
from momafuse.config.results import config_differences
from momafuse.errors import UserError

# Where data lie, and what is compared in other terms: the tokens of a sequence, the state of an upcycled run.
PLACES = ("run.seed", "upcycle", "data.path", "data.name", "data.sources.*.path", "tokenizer.*")
BUDGET = ("data.image_share", "data.share", "data.share.*", "data.sequence_length")
OBJECTIVE = ("objective.weight.*", "objective.answers_only")
COMPARED = ("model.name", "model.experts.*", "model.width_share.*", "model.untie", "model.towers", "model.depth",
            "model.depth.*", "router.*", "upcycling.*", "plugins")  # fmt: skip
SIZES = ("model.dim", "model.n_layers", "model.n_heads", "model.ffn")
MATCHED = 0.05  # FLOPs a token: up to this a row counts as matched
STEADY = 0.2  # of the mean: seeds whose speeds are further apart were not alone on their machine


def differences(a: Run, b: Run, *without: str) -> list[str]:
    """Keys that change results and differ, but for those that only say where things lie and patterns `without`."""
    keys = config_differences(a.config, b.config)
    return [k for k in keys if not any(fnmatchcase(k, pattern) for pattern in (*PLACES, *without))]


def refuse(run: Run, first: Run, *, incomplete: bool) -> None:
    """UserError where the run cannot stand beside `first`, the baseline."""
    where = f"runs: {run.name}"
    if run.report is None and not incomplete:
        done = f"stopped at step {run.steps} of {run.config.trainer.max_steps}"
        raise UserError(f"{where} {done}; run it to its end, or write incomplete=true to compare what is there")
    names, others = ({m: PurePath(t).name for m, t in r.config.tokenizer.items()} for r in (run, first))
    if names != others:
        raise UserError(f"{where} has other tokenizers than {first.name} ({_said(names)}, not {_said(others)}); leave it out")
    if run.budget != first.budget:
        said = f"{_said(run.budget)} tokens a sequence, not {_said(first.budget)}"
        raise UserError(f"{where} has other sequences than {first.name} ({said}); leave it out")
    if run.state["corpus"] != first.state["corpus"]:
        raise UserError(f"{where} was trained on another corpus than {first.name}; leave it out")
    keys = differences(run, first)
    if mixed := [k for k in keys if k.startswith("data.") and not any(fnmatchcase(k, b) for b in BUDGET)]:
        raise UserError(f"{where} has another mixture of data than {first.name} ({', '.join(mixed)}); leave it out")
    if aims := [k for k in keys if any(fnmatchcase(k, o) for o in OBJECTIVE)]:
        raise UserError(f"{where} has another objective than {first.name} ({', '.join(aims)}); leave it out")


def same_held_out(run: Run, first: Run) -> bool:
    """Whether the evaluations of both are over the same sequences; of runs that have no report, by their settings."""
    if run.report is not None and first.report is not None:
        return same_targets(run.frequencies, first.frequencies)
    here, there = ((r.config.trainer.eval_sequences, r.config.router.pool) for r in (run, first))
    return here == there


def seeds_of_one(a: Run, b: Run) -> bool:
    """Whether two runs are one row."""
    same = (_upcycled(a), a.steps, a.state["dtype"], a.report is None) == (
        _upcycled(b),
        b.steps,
        b.state["dtype"],
        b.report is None,
    )
    return same and not differences(a, b)


def same_member(a: Run, b: Run) -> bool:
    """Whether two runs are one architecture, at whatever size and however trained."""
    keys = [k for k in differences(a, b) if any(fnmatchcase(k, c) for c in COMPARED)]
    return not keys and (_upcycled(a) is None) == (_upcycled(b) is None)


def size_of(run: Run) -> tuple[int, ...]:
    m = run.config.model
    return m.dim, m.n_layers, m.n_heads, m.ffn


def marks(runs: Sequence[Run], base: Sequence[Run]) -> list[str]:
    """What a reader of a row must know, beside what it is called."""
    run, other = runs[0], base[0]
    said = []
    if run.report is None:
        said.append(f"incomplete: {run.steps} of {run.config.trainer.max_steps} steps")
    if (u := _upcycled(run)) is not None:
        said.append(f"upcycled: FLOPs and steps with the {u[1] / run.flops:.0%} of its seed, seconds without")
    if run.tokens != other.tokens or (run.steps != other.steps and u is None):
        said.append(f"other length: {run.steps} steps, {run.tokens:,} tokens; the baseline {other.steps}, {other.tokens:,}")
    keys = differences(run, other, *COMPARED, *BUDGET)
    sizes = [k for k in keys if k in SIZES]
    said += [f"other size: {_values(sizes, run)}; the baseline {_values(sizes, other)}"] if sizes else []
    rest = [k for k in keys if k not in SIZES]
    said += [f"differs in {_values(rest, run)}; the baseline {_values(rest, other)}"] if rest else []
    ratio = run.flops_per_token / other.flops_per_token
    said += [f"not FLOP-matched: {ratio:.2f} of the baseline's a token"] if abs(ratio - 1) > MATCHED else []
    said += [] if {r.revision for r in (*runs, *base)} == {other.revision} else ["other revision of the code"]
    if not same_held_out(run, other):
        said.append("other held-out sequences: those losses are left out")
    said += _of_seconds(runs, base)
    return said


def _of_seconds(runs: Sequence[Run], base: Sequence[Run]) -> list[str]:
    run, other = runs[0], base[0]
    said = (
        [] if run.state["dtype"] == other.state["dtype"] else [f"seconds in {run.state['dtype']}, not {other.state['dtype']}"]
    )
    ranks, others = run.state["layout"]["ranks"], other.state["layout"]["ranks"]
    said += [] if ranks == others else [f"seconds of {ranks} ranks, not {others}"]
    machines = list(dict.fromkeys(name for r in (*runs, *base) if (name := r.machine) is not None))
    said += [f"seconds on other machines: {'; '.join(machines)}"] if len(machines) > 1 else []
    taken = [r.seconds for r in runs if r.seconds is not None]
    if taken and max(taken) - min(taken) > STEADY * sum(taken) / len(taken):
        said.append(f"seconds of its seeds: {min(taken):.4g} to {max(taken):.4g}; they measure no speed")
    return said


def _upcycled(run: Run) -> tuple[float, float] | None:
    """Tokens and FLOPs of the seed."""
    u = run.state.get("upcycled")
    return None if u is None else (u["tokens"], u["flops"])


def _said(names: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in names.items())


def _values(keys: Sequence[str], run: Run) -> str:
    found = []
    for key in keys:
        value: Any = asdict(run.config)
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        found.append(f"{key}={'null' if value is None else value}")
    return ", ".join(found)
