"""What every rank of tests/training/test_routers.py runs: steps with the work of routers, sharded and in one process.

torchrun --nproc-per-node N -m tests.training.router_ranks OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token
from momafuse.training.routers import RouterWork
from momafuse.world import World, join
from tests.batches import make_batch
from tests.members import member
from tests.parallel.ranks import BUDGET, CPU, SEQUENCES, part, sharded, valid_targets, whole

STEPS = 3
NAMES = ("moe_token_choice", "moe_loss_free", "moma_threshold")


def steps(model: Transformer, world: World, alone: bool) -> tuple[list[float], list[torch.Tensor]]:
    """Losses of routers as reported, and the state of all layers after each step, of plain gradient descent."""
    work, reported, states = RouterWork(model, world, 1), [], []
    for i in range(STEPS):
        batch = make_batch(SEQUENCES, BUDGET, seed=i, first_sequence=SEQUENCES * i)
        mine = batch if alone else part(batch, world)
        targets = mine.targets.flatten()
        weights = torch.full(targets.shape, 1 / valid_targets(batch))
        loss, decisions = model(mine, lambda h, w, t=targets, s=weights: next_token(h, w, t, s, 1e-5).total)
        work.begin()
        of_routers, sums = work.of_micro_batch(mine, decisions, torch.tensor(1))
        (loss if of_routers is None else loss + of_routers).backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.3 * p.grad
                p.grad = None
        total = world.sum(sums)
        work.update(total)
        reported.append(work.row(total.tolist()).get("router/balance", 0.0))
        states.append(
            torch.cat([r.state() for r in model.routers()]) if model.routers()[0].state is not None else torch.zeros(1)
        )
    return reported, states


def compare(name: str, world: World) -> dict[str, float]:
    one = World(0, 1, CPU, None, None)
    alone, many = member(name), sharded(name, world)
    first = [p.detach().clone() for p in alone.parameters()]
    (expected, wanted), (found, got) = steps(alone, one, True), steps(many, world, False)
    pairs = zip(many.parameters(), alone.parameters(), strict=True)
    with torch.no_grad():
        return {
            "weights": max(float((whole(p) - q).abs().max()) for p, q in pairs),
            "reported": max(abs(a - b) for a, b in zip(found, expected, strict=True)),
            "state": max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True)),
            "moved": max(float((p - q).abs().max()) for p, q in zip(alone.parameters(), first, strict=True)),
        }


def main() -> None:
    torch.set_num_threads(1)
    with join(CPU, timeout=120) as world:
        results = {name: compare(name, world) for name in NAMES}
        if world.main:
            Path(sys.argv[1]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
