"""The held-out loss by modality, what a frequency table would reach on the same tokens, and what the routers did there.

Under expert choice the choice of a row depends on the rows after it, so the loss is not that of a causal model: it is
reported with `eval/routing = training`. Models without routers report `causal`. Router noise is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from momafuse.config.schema import Config
from momafuse.data.batch import Batch
from momafuse.data.corpus import Corpus
from momafuse.routing.statistics import RoutingCounts, count_plan
from momafuse.training.losses import LossMeter, objective
from momafuse.training.setup import Setup


@dataclass(frozen=True)
class HeldOut:
    losses: dict[str, float]  # eval/loss, eval/loss_text, eval/loss_image
    routing: str  # training: sees the future | causal
    counts: list[RoutingCounts]  # one a layer; empty where nothing is routed


def batches(config: Config, setup: Setup) -> Iterator[Batch]:
    """The held-out sequences in micro-batches of whole pools."""
    for first in range(0, setup.held_out_sequences, config.trainer.micro_batch):
        last = min(first + config.trainer.micro_batch, setup.held_out_sequences)
        yield setup.held_out.batch(range(first, last))


@torch.no_grad()
def evaluate(config: Config, setup: Setup, corpus: Corpus) -> HeldOut:
    setup.model.eval()
    meter = LossMeter(corpus.vocabulary, setup.device)
    counts: list[RoutingCounts] = []
    for host_batch in batches(config, setup):
        batch = host_batch.to(setup.device)
        _, decisions = setup.model(batch, objective(batch, meter, config.objective, 1))
        new = [count_plan(d.experts, d.kept or batch, len(batch.budget)) for d in decisions if d.experts is not None]
        counts = [a + b for a, b in zip(counts, new, strict=True)] if counts else new
    setup.model.train()
    return HeldOut(meter.means("eval/"), "training" if setup.model.routes else "causal", counts)


def unigram(config: Config, setup: Setup, corpus: Corpus) -> dict[str, float]:
    """`unigram/MODALITY`: cross-entropy in nats of the held-out targets under add-one training counts of its ids."""
    v = corpus.vocabulary
    table = v.modality_of_ids()
    targets = np.concatenate([b.targets.flatten().numpy() for b in batches(config, setup)])
    targets = targets[targets >= 0]
    result = {}
    for number, name in enumerate(v.names):
        counts = np.where(table == number, np.asarray(corpus.train.counts, dtype=np.float64) + 1, 0.0)
        mine = targets[table[targets] == number]
        if len(mine):
            result[f"unigram/{name}"] = float(np.mean(np.log(counts.sum()) - np.log(counts[mine])))
    return result
