"""The held-out loss by modality, what a frequency table would reach on the same tokens, and what the routers did there.

Under expert choice the choice of a row depends on the rows after it, so the loss is not that of a causal model: it is
reported with `eval/routing = training`. Models without routers, and those whose rows choose by themselves, report `causal`.
Router noise is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.data.corpus import Corpus
from momafuse.routing.statistics import RoutingCounts, count_plan, sum_counts
from momafuse.training.losses import LossMeter, modality_table, objective
from momafuse.training.router_watch import RouterFound, RouterWatch
from momafuse.training.setup import Setup


@dataclass(frozen=True)
class HeldOut:
    losses: dict[str, float]  # eval/loss, eval/loss_text, eval/loss_image
    routing: str  # training: sees the future | causal
    counts: list[RoutingCounts]  # one a layer; empty where nothing is routed
    router: RouterFound | None = None  # what routers did; None where no expert is chosen
    scores: list[dict[str, Any]] = field(default_factory=list)  # of auxiliary routers (auxiliary_scores.py)


def held_out_batch(config: Config, setup: Setup, first: int) -> Batch:
    """The micro-batch of held-out sequences that begins with `first`; the last one may be smaller, of whole pools."""
    return setup.held_out.batch(range(first, min(first + config.trainer.micro_batch, setup.held_out_sequences)))


def dealt(config: Config, setup: Setup) -> Iterator[tuple[Batch, bool]]:
    """This rank's micro-batches of the held-out sequences on its device, and whether they count: a rank that is left over goes
    along, since gathering weights takes all. Raises Preempted, on every rank, if one was asked to leave."""
    world = setup.world
    firsts = range(0, setup.held_out_sequences, config.trainer.micro_batch)
    for first in range(0, len(firsts), world.size):
        world.leave_if_warned()
        mine = first + world.rank
        yield held_out_batch(config, setup, firsts[min(mine, len(firsts) - 1)]).to(world.device), mine < len(firsts)


@torch.no_grad()
def evaluate(config: Config, setup: Setup, corpus: Corpus, routing: Literal["training", "causal"] = "training") -> HeldOut:
    """The loss when `routing` chooses rows, the same on every rank.

    The micro-batches are dealt to the ranks, and all make as many forwards.
    """
    setup.model.eval()
    world = setup.world
    table = modality_table(corpus.vocabulary, world.device)
    meter, uncounted = (LossMeter(corpus.vocabulary.names, table) for _ in range(2))
    counts: list[RoutingCounts] = []
    watch = RouterWatch(setup) if setup.model.chooses_experts else None
    with setup.working():
        for batch, counted in dealt(config, setup):
            loss = objective(batch, meter if counted else uncounted, config.objective, 1)
            if watch is not None:
                watch.begin(batch, counted)
            _, decisions = setup.model(batch, loss, None, routing, None if watch is None else watch.observe)
            if watch is not None:
                watch.add(batch, decisions, counted)
            new = [count_plan(d.experts, d.kept or batch, len(batch.budget)) for d in decisions if d.experts is not None]
            new = new if counted else [c.nothing() for c in new]
            counts = [a + b for a, b in zip(counts, new, strict=True)] if counts else new
    setup.model.train()
    named = routing if setup.model.looks_ahead else "causal"  # of these the training routing is causal, too
    found = None if watch is None else watch.found()
    return HeldOut(meter.means("eval/", world), named, sum_counts(counts, world.sum), found)


def unigram(config: Config, setup: Setup, corpus: Corpus) -> dict[str, float]:
    """`unigram/MODALITY`: cross-entropy in nats of the held-out targets under add-one training counts of its ids."""
    v = corpus.vocabulary
    table = v.modality_of_ids()
    firsts = range(0, setup.held_out_sequences, config.trainer.micro_batch)
    targets = np.concatenate([held_out_batch(config, setup, first).targets.flatten().numpy() for first in firsts])
    targets = targets[targets >= 0]
    result = {}
    for number, name in enumerate(v.names):
        counts = np.where(table == number, np.asarray(corpus.train.counts, dtype=np.float64) + 1, 0.0)
        mine = targets[table[targets] == number]
        if len(mine):
            result[f"unigram/{name}"] = float(np.mean(np.log(counts.sum()) - np.log(counts[mine])))
    return result
