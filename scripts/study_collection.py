"""What a run learns of each source: its held-out loss by modality and by source at every checkpoint that it kept.

    python -m momafuse.train +experiment=moma_4t4i data=collection trainer.max_steps=2000 checkpoint.every=250 \
        checkpoint.keep_every=250 trainer.eval_every=250 run.name=collection
    python scripts/study_collection.py runs/collection    # docs/results/collection.md, .json and .png

Of any run on any data=; evaluations are those of `python -m momafuse.evaluate`, under the routing of training.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from momafuse.config.compose import load_config
from momafuse.config.evaluate import EvaluateConfig, EvaluationData
from momafuse.errors import UserError
from momafuse.evaluation.held_out import Results, evaluate_run
from momafuse.evaluation.report import NOTE
from momafuse.reports.metrics import read_metrics

LEAST = 200  # targets of a source below which its loss is not shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--name", default="collection")
    parser.add_argument("--sequences", type=int, default=256, help="held-out sequences of an evaluation")
    asked = parser.parse_args()
    found = evaluate_all(asked.run, asked.sequences)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"{asked.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, asked.out / f"{asked.name}.png")
    (asked.out / f"{asked.name}.md").write_text(page(found, asked.name))
    print(f"{asked.out / asked.name}.md")


def evaluate_all(run: Path, sequences: int) -> dict[str, object]:
    """The losses of each checkpoint by name, and what the run was."""
    checkpoints = sorted((run / "checkpoints").glob("step_*"))
    if not checkpoints:
        raise UserError(f"{run}: no checkpoints there; name a run with checkpoint.keep_every")
    logger = load_config(run / "config.yaml").logger
    results: list[Results] = []
    for path in checkpoints:
        print(path, file=sys.stderr)
        config = EvaluateConfig(str(path), "training", EvaluationData(None), sequences, "auto", logger, [])
        results.append(evaluate_run(config))
    report = json.loads((run / "report.json").read_text()) if (run / "report.json").is_file() else {}
    (routing,) = results[-1].losses
    return {
        "run": run.name,
        "routing": routing,
        "sequences": results[-1].sequences,
        "steps": [int(r.seen["step"]) for r in results],
        "tokens": [int(r.seen["tokens"]) for r in results],
        "losses": {
            name: {"targets": targets, "loss": [r.losses[routing][name][0] for r in results]}
            for name, (_, targets) in results[-1].losses[routing].items()
        },
        "frequencies": {key.partition("/")[2]: value for key, value in report.items() if key.startswith("unigram/")},
        "seconds": report.get("seconds"),
        "train": [
            {key: row[key] for key in ("step", "train/loss_text", "train/loss_image") if key in row}
            for row in read_metrics(run / "metrics.jsonl")
            if "train/loss_text" in row
        ][::10],
    }


def named(found: dict[str, object], modality: str) -> dict[str, list[float]]:
    """Curves of a modality: over all sources, then source by source."""
    losses = found["losses"]
    assert isinstance(losses, dict)
    ending = f"/{modality}"
    sources = {
        name.removesuffix(ending): f["loss"] for name, f in losses.items() if name.endswith(ending) and f["targets"] >= LEAST
    }
    return {f"all {modality}": losses[modality]["loss"]} | dict(sorted(sources.items(), key=lambda row: row[1][-1]))


def draw(found: dict[str, object], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.8), layout="constrained")
    steps, frequencies = found["steps"], found["frequencies"]
    assert isinstance(frequencies, dict)
    for panel, modality in zip(figure.subplots(1, 2), ("text", "image"), strict=True):
        for name, curve in named(found, modality).items():
            style = {"color": "black", "linewidth": 2.2} if name.startswith("all ") else {"linewidth": 1.2}
            panel.plot(steps, curve, marker="o", markersize=3, label=f"{name} {curve[-1]:.2f}", **style)
        if modality in frequencies:
            panel.axhline(frequencies[modality], color="grey", linestyle=":", label=f"frequencies {frequencies[modality]:.2f}")
        panel.set(title=f"{modality}, held out", xlabel="step", ylabel="nats a token")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(out, dpi=120)


def page(found: dict[str, object], name: str) -> str:
    steps = found["steps"]
    assert isinstance(steps, list)
    note = NOTE if found["routing"] == "training" else "causal"
    shown = [n for n in range(len(steps)) if n in (0, len(steps) // 4, len(steps) // 2, len(steps) - 1)]
    lines = [
        f"# {found['run']}: held-out loss by modality and source",
        "",
        f"{found['sequences']} held-out sequences at each checkpoint, nats a token; {note}. The run made {steps[-1]:,} steps"
        + (f" in {float(str(found['seconds'])) / 60:.0f} minutes." if found.get("seconds") else "."),
        "",
        f"    python scripts/study_collection.py runs/{found['run']}",
        "",
        f"![curves]({name}.png)",
        "",
        "| | " + " | ".join(f"step {steps[n]}" for n in shown) + " | perplexity | frequencies |",
        "|---|" + "---|" * (len(shown) + 2),
    ]
    frequencies = found["frequencies"]
    assert isinstance(frequencies, dict)
    for modality in ("text", "image"):
        for label, curve in named(found, modality).items():
            whole = label.startswith("all ")
            base = f"{frequencies[modality]:.3f}" if whole and modality in frequencies else ""
            cells = " | ".join(f"{curve[n]:.3f}" for n in shown)
            text = f"**{label}**" if whole else f"{label}, {modality}"
            lines.append(f"| {text} | {cells} | {math.exp(curve[-1]):.1f} | {base} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"study_collection: {error}")
