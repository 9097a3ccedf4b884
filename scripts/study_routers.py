"""Ways to choose experts, compared at equal FLOPs: held-out causal loss by modality, balance and success, over seeds.

    python -m momafuse.sweep sweep=routers    # an hour on one core at size=nano; goes on where it stopped
    python scripts/study_routers.py           # docs/results/routers.md, .json and .png from the runs' metrics

Each member is trained with the settings of its experiment, every seed once. Members whose experts choose among rows get
auxiliary routers afterwards, and their causal loss is the one under these. Balance is the load of the busiest expert over an
even one, less 1 (MaxVio of 2408.15664), the largest of all layers, mean over the last steps of training; success the share
of a modality's rows that at least one expert computed in them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from momafuse.reports.metrics import read_metrics
from momafuse.reports.plots import COLOURS, DPI, GREY

MEMBERS = {
    "moe_1t1i": "by modality, one expert each: no router",
    "moma_4t4i": "expert choice within modalities",
    "moma_threshold": "expert threshold within modalities",
    "moe_8x": "expert choice over all",
    "moe_token_choice": "token choice, top 1 of 8, balance loss",
    "moe_top2": "token choice, top 2 of 8 of half the width, balance loss",
    "moe_loss_free": "token choice, top 1 of 8, loss-free bias",
}
NEED_AUXILIARY = ("moma_4t4i", "moe_8x")
LAST = 20  # steps that balance and success are means of
MODALITIES = ("text", "image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/routers"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--members", nargs="*", default=list(MEMBERS), choices=list(MEMBERS))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    found = {member: [outcome(asked.root, member, seed) for seed in asked.seeds] for member in asked.members}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "routers.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, asked.out / "routers.png")
    (asked.out / "routers.md").write_text(page(found))
    print(asked.out / "routers.md")


def outcome(root: Path, member: str, seed: int) -> dict[str, Any]:
    """What one run came to."""
    folder = root / f"{member}-{seed}"
    report, rows = json.loads((folder / "report.json").read_text()), read_metrics(folder / "metrics.jsonl")
    trained = [row for row in rows if "train/loss" in row]
    causal = report
    if member in NEED_AUXILIARY:
        causal = json.loads((root / f"{member}-{seed}-aux" / "report.json").read_text())
    assert causal["eval/routing"] == "causal", folder
    found: dict[str, Any] = {"seed": seed, "steps": report["steps"], "seconds": report["seconds"]}
    found["flops"] = trained[-1]["flops"]
    found |= {"auxiliary_steps": causal["steps"]} if causal is not report else {}
    for m in MODALITIES:
        found |= {f"causal_{m}": causal[f"eval/loss_{m}"], f"unigram_{m}": report[f"unigram/{m}"]}
        if report["eval/routing"] == "training":
            found |= {f"training_{m}": report[f"eval/loss_{m}"]}
        none = [float(row[f"router/none_{m}"]) for row in trained[-LAST:] if f"router/none_{m}" in row]
        found |= {f"success_{m}": 1 - statistics.mean(none)} if none else {}
    worst = [float(row["router/max_violation"]) for row in trained[-LAST:] if "router/max_violation" in row]
    return found | ({"max_violation": statistics.mean(worst)} if worst else {})


def mean(runs: list[dict[str, Any]], key: str) -> float | None:
    values = [float(run[key]) for run in runs if key in run]
    return statistics.mean(values) if values else None


def cell(runs: list[dict[str, Any]], key: str, digits: int = 3) -> str:
    """The mean over seeds, and half of their spread."""
    values = [float(run[key]) for run in runs if key in run]
    if not values:
        return ""
    spread = f" ± {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def page(found: dict[str, list[dict[str, Any]]]) -> str:
    base = mean(next(iter(found.values())), "flops") or 1.0
    lines = [
        "| member | chooses by | FLOPs | text, causal | image, causal | text, training routing | image | MaxVio "
        "| success, text | image | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for member, runs in found.items():
        cells = [cell(runs, f"causal_{m}") for m in MODALITIES] + [cell(runs, f"training_{m}") for m in MODALITIES]
        cells += [cell(runs, "max_violation", 2), *[cell(runs, f"success_{m}", 2) for m in MODALITIES]]
        flops, seconds = (mean(runs, "flops") or 0.0) / base, mean(runs, "seconds") or 0.0
        lines.append(f"| `{member}` | {MEMBERS[member]} | {flops:.3f} | {' | '.join(cells)} | {seconds:.0f} |")
    first = next(iter(found.values()))
    seeds, steps = len(first), first[0]["steps"]
    aux_steps = sorted({run["auxiliary_steps"] for runs in found.values() for run in runs if "auxiliary_steps" in run})
    causally = (
        f"Expert choice is evaluated causally with auxiliary routers of {' or '.join(map(str, aux_steps))} steps. "
        if aux_steps
        else ""
    )
    return "\n".join(
        [
            "# Routers compared",
            "",
            f"{steps} steps each, {seeds} seeds, mean and half of the spread; nats a token, held out. A table of frequencies: "
            f"text {first[0]['unigram_text']:.3f}, image {first[0]['unigram_image']:.3f}. MaxVio is the busiest expert's load "
            "over an even one, less 1, of the worst layer; success the share of rows that an expert computed, both of the last "
            f"{LAST} steps of training. {causally}Seconds are of runs beside "
            "other work and no measure of speed (docs/routers.md has that).",
            "",
            "The codes are those of `starter_vq_v1` (`tokenizer.image=starter_vq_v1`), which shipped when these ran.",
            "",
            "    python -m momafuse.sweep sweep=routers && python scripts/study_routers.py",
            "",
            "![losses](routers.png)",
            "",
            *lines,
            "",
        ]
    )


def draw(found: dict[str, list[dict[str, Any]]], out: Path) -> None:
    figure = Figure(figsize=(10, 0.42 * len(found) + 1.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, m, colour in zip(panels, MODALITIES, COLOURS, strict=False):
        for y, runs in enumerate(found.values()):
            causal = [run[f"causal_{m}"] for run in runs]
            ahead = [run[f"training_{m}"] for run in runs if f"training_{m}" in run]
            panel.plot(causal, [y] * len(causal), "o", color=colour, label="causal" if y == 0 else None)
            panel.plot(ahead, [y] * len(ahead), "x", color=GREY, label="_" if y else None)
        panel.plot([], [], "x", color=GREY, label="training routing, sees the future")
        panel.set_title(f"{m}: held-out loss, nats a token")
        panel.set_yticks(range(len(found)), list(found))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(out, dpi=DPI)


if __name__ == "__main__":
    main()
