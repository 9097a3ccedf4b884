"""One run folder, as far as it is compared: what was trained on what, and its curves of losses.

    config.yaml                      what was asked for
    metrics.jsonl                    losses by step and at evaluations; FLOPs and tokens so far (upcycled: with the seed's)
    checkpoints/step_*/state.json    the newest: which corpus, how many tokens of each modality, precision, ranks, machine
                                     (what a sweep stored has no checkpoints, but a state.json)
    report.json                      that the run is whole, and the losses of a table of frequencies on its held-out targets

Seconds are those of steps, without evaluations and saves. The curves of a run: `training`, smoothed (curves.py); `held_out`
under the routing of its evaluations; `causal`, the same points if that routing is causal, else what auxiliary routers give
(causal.py). Reads no weights. Parts: `all`, and each modality of the targets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from momafuse.checkpoint import store
from momafuse.comparison.curves import Curve, Numbers, smoothed
from momafuse.config.compose import load_config
from momafuse.config.inherit import config_file
from momafuse.config.schema import Config
from momafuse.errors import UserError
from momafuse.reports.metrics import Row, read_metrics, read_report

ALL = "all"
MEASURES = ("training", "held_out", "causal")
Places = Mapping[int, Mapping[str, float]]  # step -> FLOPs, tokens and, where they are known, seconds so far
Curves = Mapping[str, Mapping[str, Curve]]  # measure -> part


@dataclass(frozen=True)
class Run:
    name: str  # of its folder
    path: Path
    config: Config
    state: Mapping[str, Any]
    report: Mapping[str, Any] | None  # None: the run is not at its end
    revision: str
    steps: int
    flops: float  # at the end, as counted
    tokens: int
    seconds: float | None
    flops_per_token: float  # of the last step
    tokens_per_second: float | None  # median over the steps
    looks_ahead: bool  # the routing of its training and evaluations sees later rows
    places: Places
    curves: Curves

    @property
    def machine(self) -> str | None:
        """That of the last start; runs of before this was recorded do not say."""
        found = self.state.get("machine")
        threads = f", {found['threads']} threads" if found and "threads" in found else ""
        return found["device"] + threads if found else None

    @property
    def budget(self) -> dict[str, int]:
        """Tokens of each modality in a sequence."""
        return {name: round(n / self.state["sequences"]) for name, n in self.state["tokens_of"].items()}

    @property
    def parts(self) -> tuple[str, ...]:
        return ALL, *self.config.modalities

    @property
    def frequencies(self) -> dict[str, float] | None:
        """Losses of a table of frequencies: the same for the same held-out targets, and hardly for others."""
        return {k: float(v) for k, v in (self.report or {}).items() if k.startswith("unigram/")} or None


def run_folders(paths: Sequence[str]) -> list[str]:
    """The same, with the runs in it for a folder that is none itself."""
    found = []
    for path in paths:
        inside = sorted(file.parent for file in Path(path).expanduser().glob("*/config.yaml"))
        found += [path] if (Path(path).expanduser() / "config.yaml").is_file() or not inside else list(map(str, inside))
    return found


def open_run(given: str, key: str = "runs") -> Run:
    """The run at a path. Raises UserError where there is none, or something of it is missing."""
    path = config_file(given, key).parent
    config, rows = load_config(path / "config.yaml"), read_metrics(path / "metrics.jsonl")
    steps = [row for row in rows if "train/loss" in row]
    if not steps:
        remedy = "bring its metrics.jsonl back or leave the run out"
        raise UserError(f"{key}: {given} has no steps in metrics.jsonl, from which runs are compared; {remedy}")
    state = newest_state(path, f"{key}: {given}")
    places = _places(steps, state, config.trainer.global_batch * config.data.sequence_length)
    evaluations = [row for row in rows if "eval/loss" in row]
    routing = evaluations[-1]["eval/routing"] if evaluations else None
    looks_ahead = config.needs_auxiliary or config.router.looks_ahead if routing is None else routing == "training"
    parts = {ALL: "loss"} | {name: f"loss_{name}" for name in config.modalities}
    training = {part: smoothed(c) for part, k in parts.items() if (c := _curve(steps, f"train/{k}", places)) is not None}
    held_out = {part: c for part, k in parts.items() if (c := _curve(evaluations, f"eval/{k}", places)) is not None}
    speeds = [float(row["perf/tokens_per_second"]) for row in steps if "perf/tokens_per_second" in row]
    last, before = steps[-1], steps[-2] if len(steps) > 1 else {"flops": 0.0, "tokens": 0}
    return Run(
        name=path.resolve().name,
        path=path,
        config=config,
        state=state,
        report=_report(path, int(last["step"])),
        revision=_text(path / "revision.txt"),
        steps=int(last["step"]),
        flops=float(last["flops"]),
        tokens=int(last["tokens"]),
        seconds=places[int(last["step"])].get("seconds"),
        flops_per_token=(float(last["flops"]) - float(before["flops"])) / (int(last["tokens"]) - int(before["tokens"])),
        tokens_per_second=float(np.median(speeds)) if speeds else None,
        looks_ahead=looks_ahead,
        places=places,
        curves={"training": training, "held_out": held_out, "causal": {} if looks_ahead else held_out},
    )


def newest_state(path: Path, named: str) -> dict[str, Any]:
    """state.json of the newest checkpoint, or of a folder that a sweep stored without checkpoints; weights are neither read nor
    compared with their hashes."""
    checkpoint = store.latest(path / "checkpoints") or path
    try:
        state: dict[str, Any] = json.loads(_text(checkpoint / "state.json"))
    except ValueError:
        state = {}
    if not {"corpus", "tokens_of", "sequences"} <= set(state):
        remedy = "bring its newest checkpoint back or leave the run out"
        raise UserError(f"{named} has no complete checkpoint, whose state.json says what it was trained on; {remedy}")
    return state


def _report(path: Path, step: int) -> dict[str, Any] | None:
    """report.json, where it is of the last step: it is written when a run is whole."""
    report = read_report(path)
    return report if report.get("steps") == step else None


def _places(steps: Sequence[Row], state: Mapping[str, Any], tokens: int) -> dict[int, dict[str, float]]:
    """Of each step of so many tokens; a run that began from another's checkpoint has the seconds of the other in its state."""
    places = {int(row["step"]): {axis: float(row[axis]) for axis in ("flops", "tokens")} for row in steps}
    if all("perf/tokens_per_second" in row for row in steps):
        ends = np.cumsum([tokens / float(row["perf/tokens_per_second"]) for row in steps])
        at_state = [end for row, end in zip(steps, ends, strict=True) if row["step"] == state["step"]]
        before = max(0.0, state["seconds"] - at_state[0]) if at_state else 0.0
        for place, end in zip(places.values(), ends, strict=True):
            place["seconds"] = float(end) + before
    return places


def _curve(rows: Sequence[Row], key: str, places: Places) -> Curve | None:
    """The rows that have a number there, None if none has; before the first step no seconds have gone by."""
    kept = [row for row in rows if key in row and math.isfinite(float(row[key]))]
    if not kept:
        return None
    start = dict.fromkeys(next(iter(places.values())), 0.0) | {a: float(kept[0][a]) for a in ("flops", "tokens")}
    found = [places.get(int(row["step"]), start) for row in kept]
    at: dict[str, Numbers] = {axis: np.array([place[axis] for place in found]) for axis in start}
    return Curve(at, np.array([float(row[key]) for row in kept]))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
