"""The stage that trains auxiliary routers: the model stays as it is, they learn which rows its routers take.

    loss = mean over routers of the mean over decisions of BCE(sigmoid(s), taken)       (MoMa, arXiv 2407.21770, Table 6)

A decision is a row and an expert that serves it (or a depth router); rows that an expert does not serve are none. The main
model runs without gradients, noise and loss head, so a step costs about a forward. Data goes on where the run of
`model_from` stopped, so that routers learn from what the model has not seen; tokens and FLOPs are those of this stage.
A mean is over the rows of a micro-batch; micro-batches and ranks weigh the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from momafuse.checkpoint import store
from momafuse.config.compose import Job
from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.errors import UserError
from momafuse.files import write_aside
from momafuse.models.block import Decision
from momafuse.models.transformer import Observe
from momafuse.reports.logger import Logger
from momafuse.routing.auxiliary import Lesson
from momafuse.routing.statistics import chosen_shares
from momafuse.training.auxiliary_scores import KINDS, causal_costs, lessons, scores
from momafuse.training.held_out import HeldOut, evaluate, unigram
from momafuse.training.language import LanguageStage
from momafuse.training.page import write_page
from momafuse.training.router_report import written
from momafuse.training.routing_shown import draw_routing
from momafuse.training.seed import Seed
from momafuse.training.setup import Setup
from momafuse.training.step import chosen_rows, step_flops


def taught_by(config: Config, setup: Setup, corpus: str) -> dict[str, Any]:
    """Load the model of `model_from`; what the state keeps of it: where it is from, and where the data begin.

    Raises UserError where it was trained on another corpus, whose places would mean nothing here.
    """
    assert config.model_from is not None
    checkpoint = store.find(Path(config.model_from).expanduser(), "model_from")
    state = setup.world.on_main(lambda: store.read_state(checkpoint))
    if state["corpus"] != corpus:
        raise UserError(f"model_from={config.model_from}: was trained on another corpus; bring it back or set data.path")
    store.load(checkpoint, setup.model, [], setup.world, without=lambda path: "auxiliary" in path)
    return {"origin_sequence": state["sequences"], "teacher": str(checkpoint.resolve())}


def check_teacher(config: Config, state: Mapping[str, Any]) -> None:
    """Raises UserError where the run of `model_from` has gone on since these routers began to learn from it."""
    assert config.model_from is not None
    newest = str(store.find(Path(config.model_from).expanduser(), "model_from").resolve())
    if newest != state["teacher"]:
        raise UserError(
            f"model_from={config.model_from}: is at {Path(newest).name} now, and these routers learn from "
            f"{state['teacher']}; choose another run.name"
        )


class BCEMeter:
    """Sums by kind of router: loss, decisions, rightly taken, said to be taken, taken."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(KINDS), 5, dtype=torch.float64, device=device)

    def add(self, kind: str, lesson: Lesson, loss: Tensor) -> None:
        said, taken = (lesson.logits.detach() > 0) & lesson.served, lesson.taken & lesson.served
        counts = [loss.detach() * lesson.served.sum(), lesson.served.sum(), (said & taken).sum(), said.sum(), taken.sum()]
        self.sums[KINDS.index(kind)] += torch.stack([c.double() for c in counts])

    def named(self, prefix: str, sums: Sequence[float]) -> dict[str, float]:
        """`PREFIXloss`, `PREFIXprecision`, `PREFIXrecall`, and the three of each kind of router that there is."""
        rows = [list(sums[i : i + 5]) for i in range(0, len(sums), 5)]
        found = _scores(prefix, "", [sum(column) for column in zip(*rows, strict=True)])
        for kind, row in zip(KINDS, rows, strict=True):
            found |= _scores(prefix, f"_{kind}", row) if row[1] else {}
        return found


def _scores(prefix: str, suffix: str, row: Sequence[float]) -> dict[str, float]:
    loss, decisions, right, said, taken = row
    values = {"loss": loss / max(1.0, decisions), "precision": right / max(1.0, said), "recall": right / max(1.0, taken)}
    return {f"{prefix}{name}{suffix}": value for name, value in values.items()}


def next_commands(path: Path) -> list[str]:
    """To draw and write, on a page and in a shell, and to know what choosing causally costs."""
    run = shlex.quote(f"run={path}")
    return [
        f"python -m momafuse.demo {run}   # a page to type and drop pictures on",
        f"python -m momafuse.generate {run} 'prompt=a red apple:' make=image samples=8 guidance=4",
        f"python -m momafuse.evaluate {run} routing=both   # what seeing the future was worth",
    ]


def bce(lesson: Lesson) -> Tensor:
    """The mean binary cross-entropy over the decisions that count, in nats; 0 where there is none."""
    every = binary_cross_entropy_with_logits(lesson.logits, lesson.taken.to(lesson.logits.dtype), reduction="none")
    return (every * lesson.served).sum() / lesson.served.sum().clamp(min=1)


class Auxiliaries(LanguageStage):
    def first_state(self, seed: Seed | None) -> dict[str, Any]:
        return super().first_state(seed) | taught_by(self.config, self.setup, self.data)

    def check_state(self, state: Mapping[str, Any]) -> None:
        check_teacher(self.config, state)

    def backward(self, host_batch: Batch, weight: int, step: int) -> Tensor:
        """-> what BCEMeter sums, then rows of each modality chosen by 0, 1 and more experts."""
        t, meter = self.config.trainer, BCEMeter(self.world.device)
        total = torch.zeros((), device=self.world.device)
        batch = host_batch.to(self.world.device)
        decisions = self._decisions(batch, self.observe)
        found = lessons(decisions)
        for _, kind, lesson in found:
            loss = bce(lesson)
            meter.add(kind, lesson, loss)
            total = total + loss / (max(1, len(found)) * (t.global_batch // t.micro_batch))
        total.backward()  # type: ignore[no-untyped-call]
        return torch.cat([meter.sums.flatten(), chosen_rows(self.setup, batch, decisions)])

    def row(self, sums: Sequence[float]) -> dict[str, float]:
        meter = BCEMeter(self.world.device)
        scored = meter.sums.numel()
        return meter.named("train/", sums[:scored]) | chosen_shares(sums[scored:], self.setup.model.modality_names)

    def flops(self, step: int) -> float:
        """A forward without the head; the routers' own backward is small beside it and is not counted."""
        return sum(flops for part, flops in step_flops(self.config, self.setup, step).items() if part != "head")

    def evaluate(self) -> HeldOut:
        """The loss of the next token when the auxiliary routers choose, and how well they guess."""
        found = evaluate(self.config, self.setup, self.corpus, "causal")
        return replace(found, scores=scores(self.config, self.setup))

    def renew(self, job: Job, path: Path, state: dict[str, Any], found: HeldOut, logger: Logger) -> None:
        """The page, and plots/routing.png: what the model makes when these routers choose, and what goes where."""
        frequencies = unigram(job.config, self.setup, self.corpus)
        if found.router is not None:
            (path / "plots").mkdir(exist_ok=True)
            draw_routing(job.config, self.setup.model, self.corpus.vocabulary, found.router, path, int(state["step"]))
        write_page(job, self.setup, self.corpus, path, state, found, frequencies, next_commands(path))
        logger.page(path / "index.html", int(state["step"]))

    def finish(self, job: Job, path: Path, state: dict[str, Any], found: HeldOut, logger: Logger) -> None:
        """report.json: the held-out loss under causal routing, precision and recall, and what the experts then cost."""
        report: dict[str, Any] = {**found.losses, "eval/routing": found.routing}
        report |= unigram(job.config, self.setup, self.corpus)
        report |= {"steps": state["step"], "tokens": state["tokens"], "seconds": round(state["seconds"], 3)}
        report |= {"auxiliary": found.scores, "causal": causal_costs(self.config, self.setup, found.counts)}
        report |= {} if found.router is None else {"router": found.router.entries}
        write_aside(path / "report.json", written(report))
        self.renew(job, path, state, found, logger)
        logger.message(f"run folder: {path}; report.json holds the held-out loss under causal routing, and scores by layer")
        logger.message(f"what it makes of held-out pairs: {path / 'index.html'}")
        logger.message("\n  ".join(["next:", *next_commands(path)]))

    def _decisions(self, batch: Batch, observe: Observe | None) -> list[Decision]:
        self.setup.model.eval()  # no dropout: routers learn from what is chosen at inference
        with torch.no_grad():
            decisions: list[Decision] = self.setup.model(batch, lambda hidden, head: None, None, "teaching", observe)[1]
        return decisions
