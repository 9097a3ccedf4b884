"""A micro-batch is the same launches whatever it holds: run again on other contents it is what eager makes of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from momafuse.config.compose import compose
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.training.losses import LossMeter, modality_table
from momafuse.training.routers import RouterWork
from momafuse.training.setup import build_model
from momafuse.training.step import backward, micro_batch, numbers
from momafuse.world import World
from tests.batches import make_batch
from tests.training.recorded import record

CPU = torch.device("cpu")
IDS = Vocabulary.build(24, image=(32, 8))
TENSORS = ("tokens", "targets", "modality", "document", "position", "sequence", "order")


def made(name: str, *words: str, device: torch.device = CPU):
    shape = ("size=micro", "data.image_share=0.5", "trainer.precision=bf16", "router.noise=true")
    config = compose([f"+experiment={name}", *shape, *words]).config
    world = World(0, 1, device, None, None)
    model, _ = build_model(config, IDS, world)
    return config, SimpleNamespace(world=world, model=model)


def meter(device: torch.device = CPU) -> LossMeter:
    return LossMeter(IDS.names, modality_table(IDS, device))


MODES = [("dense", "none"), ("moma_4t4i", "none"), ("mot", "none"), ("mod_moma_4t4i", "none"), ("moe_8x", "none")]
MODES += [("mod_moma_4t4i", "selective"), ("moma_4t4i", "full")]


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_launches_hold_nothing_of_their_batch_or_step(name, mode):
    config, setup = made(name, f"trainer.activation_checkpointing={mode}")
    parameters = list(setup.model.parameters())
    batch, step = make_batch(4, (40, 24)), numbers(setup, 11, 1)
    batch = replace(batch, **{field: getattr(batch, field).clone() for field in TENSORS})
    for p in parameters:
        p.grad = torch.zeros_like(p)
    mine = meter()
    replay, chosen = record(lambda: micro_batch(config, setup, batch, mine, step, RouterWork(setup.model, setup.world, 1)))
    for seed in (1, 2):
        other, valid = make_batch(4, (40, 24), seed=seed, first_sequence=4 * seed), 50 + seed
        for p in parameters:
            p.grad.zero_()
        mine.sums.zero_()
        for field in TENSORS:
            getattr(batch, field).copy_(getattr(other, field))
        step.copy_(numbers(setup, valid, seed + 1))
        replay()
        config2, again = made(name)
        expected = meter()
        of_step, work = numbers(again, valid, seed + 1), RouterWork(again.model, again.world, 1)
        assert torch.equal(backward(config2, again, other, expected, of_step, seed + 1, work), chosen)
        assert torch.equal(mine.sums, expected.sums)
        for p, q in zip(parameters, again.model.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
