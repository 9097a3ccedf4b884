"""An evaluation as Markdown and JSON: RUN/evaluation/CHECKPOINT-ROUTING.{json,md}."""

from __future__ import annotations

import hashlib
import json
import math

from momafuse.evaluation.held_out import Results
from momafuse.files import write_aside

NOTE = "training routing sees the future: what a router chooses depends on later rows too"


def table(r: Results) -> str:
    """Loss and perplexity of each part under each routing, and the gap of causal to training routing."""
    routings = list(r.losses)
    gap = len(routings) == 2
    head = ["held out", "targets", *(f"{k}: loss | perplexity" for k in routings), *(["gap"] if gap else [])]
    columns = len("|".join(head).split("|"))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * columns]
    for name, (_, targets) in r.losses[routings[0]].items():
        found = [r.losses[k][name][0] for k in routings]
        cells = [name, str(targets), *(f"{x:.4f} | {math.exp(min(x, 700)):.2f}" for x in found)]
        cells += [f"{found[1] / found[0] - 1:+.2%}"] if gap else []
        lines.append("| " + " | ".join(cells) + " |")
    if "training" in routings:
        lines += ["", NOTE]
    return "\n".join([f"{r.folder}, {r.checkpoint}, {r.sequences} sequences {r.corpus}".rstrip(), "", *lines, ""])


def save(r: Results) -> list[str]:
    """Write both files; returns their paths. Another corpus than the run's gets a name of its own."""
    other = f"-{hashlib.sha256(r.corpus.encode()).hexdigest()[:8]}" if r.corpus else ""
    stem = f"{r.checkpoint}-{'both' if len(r.losses) == 2 else next(iter(r.losses))}{other}"
    folder = r.folder / "evaluation"
    folder.mkdir(exist_ok=True)
    found = {
        "checkpoint": r.checkpoint,
        "corpus": r.corpus or None,
        "sequences": r.sequences,
        "causal_anyway": r.causal_anyway,
        "routing": {
            k: {name: {"loss": loss, "perplexity": math.exp(min(loss, 700)), "targets": n} for name, (loss, n) in parts.items()}
            for k, parts in r.losses.items()
        },
    }
    write_aside(folder / f"{stem}.json", json.dumps(found, indent=1) + "\n")
    write_aside(folder / f"{stem}.md", table(r))
    return [str(folder / f"{stem}.{kind}") for kind in ("json", "md")]
