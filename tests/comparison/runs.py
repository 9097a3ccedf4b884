"""Run folders as training leaves them, with curves written by hand: config, metrics, report, the state of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from momafuse.config.compose import compose

TOKENS = 1024  # a step: 4 sequences of 256 at size=micro
FLOPS = 1e6  # a token
Losses = Callable[[float], Mapping[str, float]]  # of FLOPs -> part -> nats

UNIGRAM = {"unigram/text": 6.5, "unigram/image": 8.5}


def falling(speed: float = 1.0, text: float | None = None, image: float | None = None, up: float = 0.0) -> Losses:
    """Losses that fall as a power of FLOPs, so many times as fast as at speed 1, `up` nats above."""

    def losses(flops: float) -> dict[str, float]:
        t = 4 * (flops * (text or speed) / 1e9) ** -0.08 + up
        i = 6 * (flops * (image or speed) / 1e9) ** -0.08 + up
        return {"": (t + i) / 2, "_text": t, "_image": i}

    return losses


def make_run(
    root: Path,
    name: str,
    *words: str,
    losses: Losses | None = None,
    steps: int = 40,
    every: int = 10,
    flops: float = FLOPS,
    speed: float = 1000.0,
    held_out: Losses | None = None,
    routing: str = "causal",
    whole: bool = True,
    state: Mapping[str, Any] | None = None,
    unigram: Mapping[str, float] = UNIGRAM,
    before: Mapping[str, float] | None = None,
) -> Path:
    """`words`: overrides of `train`, with the experiment. `before`: tokens and FLOPs of the seed of an upcycled run."""
    folder = root / name
    job = compose(["size=micro", f"run.root={root}", f"run.name={name}", f"trainer.max_steps={steps}", *words])
    losses = losses or falling()
    start = before or {"tokens": 0, "flops": 0.0}
    rows = [evaluation(0, start, (held_out or losses), routing)] if before else []
    for step in range(1, steps + 1):
        so_far = {"tokens": start["tokens"] + step * TOKENS, "flops": start["flops"] + step * TOKENS * flops}
        row = {f"train/loss{part}": loss for part, loss in losses(so_far["flops"]).items()}
        rows.append({"step": step, **so_far, **row, "perf/tokens_per_second": speed})
        if step % every == 0:
            rows.append(evaluation(step, so_far, (held_out or losses), routing))
    write(folder, job.yaml, rows)
    seeds = {"tokens": start["tokens"], "flops": start["flops"], "seed": "elsewhere"} if before else None
    checkpoint(folder, steps, {"seconds": steps * TOKENS / speed, "upcycled": seeds, **(state or {})}, start["tokens"])
    if whole:
        last = {f"eval/loss{part}": loss for part, loss in (held_out or losses)(so_far["flops"]).items()}
        report(folder, steps, {**last, "eval/routing": routing, **unigram})
    return folder


def make_auxiliary(
    root: Path, of: Path, causal: Mapping[str, float], step: int = 40, suffix: str = "-aux", **unigram: float
) -> Path:
    """Auxiliary routers of a run that learnt from its checkpoint at `step`; `causal`: part -> loss."""
    folder = root / f"{of.name}{suffix}"
    job = compose(["+experiment=aux_routers", f"model_from={of}", f"run.root={root}", f"run.name={folder.name}"])
    write(folder, job.yaml, [{"step": 8, "tokens": 8 * TOKENS, "flops": 8 * TOKENS * FLOPS / 4, "train/loss": 0.5}])
    checkpoint(folder, 8, {"teacher": f"/elsewhere/{of.name}/checkpoints/step_{step:08d}"})
    report(
        folder,
        8,
        {f"eval/loss{part}": loss for part, loss in causal.items()} | {"eval/routing": "causal"} | (unigram or UNIGRAM),
    )
    return folder


def evaluation(step: int, at: Mapping[str, float], losses: Losses, routing: str) -> dict[str, Any]:
    found = {f"eval/loss{part}": loss for part, loss in losses(at["flops"]).items()}
    return {"step": step, **at, **found, "eval/routing": routing}


def write(folder: Path, yaml: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml)
    (folder / "revision.txt").write_text("0.1.0 abc\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def checkpoint(folder: Path, step: int, more: Mapping[str, Any], tokens: float = 0) -> None:
    """What is read of one: its marker and its state."""
    at = folder / "checkpoints" / f"step_{step:08d}"
    at.mkdir(parents=True, exist_ok=True)
    (at / "complete.json").write_text("{}")
    sequences = int(tokens) // 256 + step * 4
    state = {"step": step, "sequences": sequences, "tokens_of": {"text": 128 * sequences, "image": 128 * sequences}}
    state |= {"corpus": "of the test", "dtype": "float32", "layout": {"ranks": 1}, "upcycled": None, "seconds": 1.0}
    (at / "state.json").write_text(json.dumps({**state, **more}))


def report(folder: Path, steps: int, found: Mapping[str, Any]) -> None:
    (folder / "report.json").write_text(json.dumps({**found, "steps": steps}))
