"""An evaluation as Markdown and JSON, RUN/evaluation/CHECKPOINT-ROUTING.{json,md}, and as a row of a W&B run.

All evaluations of a run on one corpus are one W&B run of the kind `evaluate`, in RUN/evaluation, grouped under the run's name:
curves over the checkpoint's step, in whatever order they were evaluated.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from momafuse.config.schema import LoggerConfig
from momafuse.evaluation.held_out import Results
from momafuse.files import write_aside
from momafuse.reports.wandb_run import WandbRun

NOTE = "training routing sees the future: what a router chooses depends on later rows too"


def perplexity(loss: float) -> float:
    """Of a loss in nats; finite."""
    return math.exp(min(loss, 700))


def table(r: Results) -> str:
    """Loss and perplexity of each part under each routing, and the gap of causal to training routing."""
    routings = list(r.losses)
    gap = len(routings) == 2
    head = ["held out", "targets", *(f"{k}: loss | perplexity" for k in routings), *(["gap"] if gap else [])]
    columns = len("|".join(head).split("|"))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * columns]
    for name, (_, targets) in r.losses[routings[0]].items():
        found = [r.losses[k][name][0] for k in routings]
        cells = [name, str(targets), *(f"{x:.4f} | {perplexity(x):.2f}" for x in found)]
        cells += [f"{found[1] / found[0] - 1:+.2%}"] if gap else []
        lines.append("| " + " | ".join(cells) + " |")
    if "training" in routings:
        lines += ["", NOTE]
    return "\n".join([f"{r.folder}, {r.checkpoint}, {r.sequences} sequences {r.corpus}".rstrip(), "", *lines, ""])


def save(r: Results) -> list[str]:
    """Write both files; returns their paths. Another corpus than the run's gets a name of its own."""
    other = f"-{_corpus_name(r)}" if r.corpus else ""
    stem = f"{r.checkpoint}-{'both' if len(r.losses) == 2 else next(iter(r.losses))}{other}"
    folder = r.folder / "evaluation"
    folder.mkdir(exist_ok=True)
    found = {
        "checkpoint": r.checkpoint,
        **r.seen,
        "corpus": r.corpus or None,
        "sequences": r.sequences,
        "causal_anyway": r.causal_anyway,
        "routing": {
            k: {name: {"loss": loss, "perplexity": perplexity(loss), "targets": n} for name, (loss, n) in parts.items()}
            for k, parts in r.losses.items()
        },
    }
    write_aside(folder / f"{stem}.json", json.dumps(found, indent=1) + "\n")
    write_aside(folder / f"{stem}.md", table(r))
    return [str(folder / f"{stem}.{kind}") for kind in ("json", "md")]


def record(r: Results, logger: LoggerConfig, warn: Callable[[str], None]) -> None:
    """A row of W&B: `ROUTING/PART/loss` and `/perplexity`, under the checkpoint's step, tokens and FLOPs."""
    folder = r.folder / "evaluation" / (_corpus_name(r) if r.corpus else "")
    folder.mkdir(parents=True, exist_ok=True)
    run = r.folder.name
    name = f"{run}-evaluation" + (f"-{Path(r.corpus).name}" if r.corpus else "")
    config = (r.folder / "checkpoints" / r.checkpoint / "config.yaml").read_text(encoding="utf-8")
    wandb = WandbRun(folder, replace(logger, group=logger.group or run), config, warn, name=name, kind="evaluate")
    row: dict[str, float | int | str] = dict(r.seen)
    for routing, parts in r.losses.items():
        for part, (loss, _) in parts.items():
            row |= {f"{routing}/{part}/loss": loss, f"{routing}/{part}/perplexity": perplexity(loss)}
    wandb.log(row, at=int(time.time()))
    wandb.close(0)


def _corpus_name(r: Results) -> str:
    """Of a corpus that is not the run's."""
    return hashlib.sha256(r.corpus.encode()).hexdigest()[:8]
