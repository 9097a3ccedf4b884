"""A planted collapse, and what brings it back: all tokens go to expert 0 at step 0, then training with each remedy.

    python scripts/study_router_collapse.py              # minutes; docs/results/router_collapse.json and .png

Token choice, top 1 of 8, micro size. The collapse is planted by a channel of the embedding that is the same for all tokens,
which expert 0's router weight multiplies: its logit is far above the others for every token. What is drawn is the share of the
choices that the busiest expert has, of the worst layer (1 / 8 is even), and the alarms of the run are kept beside.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from momafuse.config.compose import compose
from momafuse.data.prepare import open_or_prepare
from momafuse.models.transformer import Transformer
from momafuse.reports.plots import COLOURS, DPI, GREY
from momafuse.training.guard import gradient_norm
from momafuse.training.pretraining import Pretraining
from momafuse.training.setup import build
from momafuse.world import World

REMEDIES: dict[str, list[str]] = {
    "nothing": [],
    "balance 0.01": ["router.loss.balance=0.01"],
    "z 0.1": ["router.loss.z=0.1"],
    "balance 0.01, z 0.001": ["router.loss.balance=0.01", "router.loss.z=0.001"],
    "importance 0.01": ["router.loss.importance=0.01"],
    "global entropy 0.04": [
        "router.loss.global_entropy={text: 0.04, image: 0.04}",
        "router.loss.least_experts={text: 4, image: 4}",
    ],
    "bias 0.01, sigmoid": ["router.score=sigmoid", "router.bias_rate=0.01"],
}
SETTINGS = ["optim.lr=4e-3", "optim.schedule_steps=1000"]
CHANNEL, LOGIT = 4.0, 8.0  # of the embedding; that of expert 0 for a token without anything else


@dataclass(frozen=True)
class Course:
    busiest: list[float]  # share of the choices that the busiest expert of the worst layer has, a step
    loss: list[float]
    said: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=list(REMEDIES), choices=list(REMEDIES))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    courses = {name: course([*REMEDIES[name], *asked.set], asked.steps) for name in asked.only}
    asked.out.mkdir(parents=True, exist_ok=True)
    kept = {name: {"busiest": [round(x, 4) for x in c.busiest], "loss": [round(x, 4) for x in c.loss], "said": c.said}
            for name, c in courses.items()}  # fmt: skip
    (asked.out / "router_collapse.json").write_text(json.dumps(kept) + "\n")
    draw(courses, asked.out / "router_collapse.png")
    for name, c in courses.items():
        print(f"{name}: busiest {c.busiest[0]:.2f}, at last {c.busiest[-1]:.2f}, loss {c.loss[-1]:.3f}, {len(c.said)} alarms")


@torch.no_grad()
def plant(model: Transformer) -> None:
    model.embedding.weight[:, 0] = CHANNEL
    for router in model.routers():
        if router is not None:
            for weight in router.weight.values():
                weight[0, 0] += LOGIT / CHANNEL


def course(words: list[str], steps: int) -> Course:
    """The steps of a run without its folder."""
    base = [
        "+experiment=moe_token_choice",
        "router.loss={balance: 0, z: 0}",
        "size=micro",
        "optim.lr=4e-3",
        "optim.schedule_steps=1000",
    ]
    config = compose([*base, f"trainer.max_steps={steps}", "trainer.precision=fp32", *words]).config
    world, corpus = World(0, 1, torch.device("cpu"), None, None), open_or_prepare(config)
    setup = build(config, corpus, world)
    plant(setup.model)
    stage, found = Pretraining(config, setup, corpus), Course([], [], [])
    state = {"step": 0, "seconds": 0.0, "schedule_steps": config.optim.schedule_steps} | stage.first_state(None)
    stream = stage.stream(state)
    for step in range(1, steps + 1):
        batches = next(stream)
        stage.begin(step, state)
        sums = torch.stack([stage.backward(batch, stage.weight(batches), step) for batch in batches]).sum(0)
        row = stage.row(sums.tolist())
        found.busiest.append((row["router/max_violation"] + 1) / 8)
        found.loss.append(row["train/loss"])
        found.said.extend(f"step {step}: {line}" for line in stage.said())
        stage.update({"all": gradient_norm(setup.model.parameters(), world.device)}, sums)
        setup.optimizer.zero_grad(set_to_none=True)
        stage.count(state, step)
    return found


def draw(courses: dict[str, Course], out: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panel = figure.subplots()
    for number, (name, c) in enumerate(courses.items()):
        colour = GREY if number == 0 else COLOURS[(number - 1) % len(COLOURS)]
        style = "-" if number <= len(COLOURS) else "--"
        panel.plot(range(1, len(c.busiest) + 1), c.busiest, style, color=colour, label=name, linewidth=1.4)
    panel.axhline(1 / 8, color=GREY, linestyle=":", linewidth=1)
    panel.set_xlabel("step")
    panel.set_ylabel("share of the busiest expert")
    panel.set_ylim(0, 1.03)
    panel.set_title(
        "all tokens go to one expert at first: what brings them back (worst layer; dotted: an even load)", fontsize=10
    )
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(out, dpi=DPI)


if __name__ == "__main__":
    main()
