"""What every rank of tests/parallel/test_sharding.py runs: sharded members beside the same members in one process.

    torchrun --nproc-per-node N -m tests.parallel.ranks OUT.json REPLICAS MEMBER ...

A member may bring overrides: "mot model.dim=64".
Every rank also makes the run of one process for itself, so nothing but the summed results travels. The routing of the one
process can be replayed: near ties fall otherwise where sums are rounded in another order.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from momafuse.data.batch import Batch, begins_of
from momafuse.models import initialise as room
from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.objectives.next_token import next_token
from momafuse.parallel.precision import apply_precision
from momafuse.parallel.sharding import holds, shard
from momafuse.routing import depth, expert_choice, routers, token_choice
from momafuse.training.auxiliary import bce, lessons
from momafuse.training.optimizer import freeze
from momafuse.world import World, join
from tests.batches import make_batch
from tests.members import member

room.BLOCK = 1021  # initial weights come in blocks; cut by shards, as those of large models are
STEPS, SEQUENCES, BUDGET = 20, 16, (40, 24)
CPU = torch.device("cpu")


def sharded(name: str, world: World, dtype: torch.dtype = torch.float32, auxiliary: bool = False) -> Transformer:
    model = member(*name.split(), auxiliary=auxiliary)
    apply_precision(model, dtype)
    shard(model, world.mesh, dtype, torch.float32)
    model.to_empty(device=CPU)
    initialise(model, 0, holds)
    return model


def part(batch: Batch, world: World) -> Batch:
    """This rank's stretch of the sequences."""
    share = batch.shape[0] // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    cut = {f.name: getattr(batch, f.name)[mine] for f in fields(batch) if f.name not in ("begins", "order", "budget")}
    order = torch.argsort(cut["modality"].flatten(), stable=True)
    return replace(batch, **cut, begins=begins_of(cut["document"]), order=order)


def loss_of(model: Transformer, batch: Batch, valid: int) -> Tensor:
    targets = batch.targets.flatten()
    weights = torch.full(targets.shape, 1 / valid)
    return model(batch, lambda hidden, head: next_token(hidden, head, targets, weights, 1e-5).total)[0]


def valid_targets(*batches: Batch) -> int:
    return sum(int((b.targets >= 0).sum()) for b in batches)


def whole(x: Tensor | None) -> Tensor | None:
    return x.full_tensor() if isinstance(x, DTensor) else x


def worst(a: Transformer, b: Transformer) -> tuple[float, float]:
    """The largest difference of a gradient, and the largest as a share of the largest entry of its tensor."""
    absolute, relative = 0.0, 0.0
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        mine, theirs = whole(p.grad), whole(q.grad)
        if mine is None or theirs is None:
            mine, theirs = (torch.zeros(1) if g is None else g.abs().max().view(1) for g in (mine, theirs))
        difference = (mine - theirs).abs().max()
        absolute = max(absolute, float(difference))
        relative = max(relative, float(difference / theirs.abs().max().clamp(min=1e-12)))
    return absolute, relative


@contextmanager
def choices(tape: list[Tensor], world: World | None) -> Iterator[None]:
    """Record what routers choose; with a world, play this rank's stretch of what was recorded."""
    choose, place, rooms = routers.top_rows, 0, (routers, depth, expert_choice, token_choice)

    def watched(scores: Tensor, count: int) -> Tensor:
        nonlocal place
        if world is None:
            tape.append(choose(scores, count))
            return tape[-1]
        place += 1
        return stretch(tape[place - 1], world)

    try:
        for room in rooms:
            room.top_rows = watched
        yield
    finally:
        for room in rooms:
            room.top_rows = choose


def stretch(choice: Tensor, world: World) -> Tensor:
    """This rank's pools of a choice of one process."""
    share = choice.shape[0] // world.size
    return choice[world.rank * share : (world.rank + 1) * share]


def flipped(expected: list[Tensor], found: list[Tensor], world: World) -> tuple[int, int]:
    """Rows that a router took in one process and not over ranks, and all that it took there, both over all ranks."""
    pairs = [(stretch(full, world), mine) for full, mine in zip(expected, found, strict=True)]
    missing = sum(int((full.unsqueeze(-1) != mine.unsqueeze(-2)).all(-1).sum()) for full, mine in pairs)
    counts = torch.tensor([missing, sum(full.numel() for full, _ in pairs)])
    lost, taken = world.sum(counts).tolist()
    return lost, taken


def descend(model: Transformer, batches: list[Batch], world: World | None, tape: list[Tensor] | None) -> list[float]:
    """Losses of plain gradient descent on the global batches."""
    losses = []
    for batch in batches:
        mine = batch if world is None else part(batch, world)
        if tape is None:
            loss = loss_of(model, mine, valid_targets(batch))
        else:
            with choices(tape, world):
                loss = loss_of(model, mine, valid_targets(batch))
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.3 * p.grad
                p.grad = None
        if tape is not None and world is not None:
            del tape[: sum(isinstance(m, routers.Router | depth.DepthRouter) for m in model.modules())]
        losses.append(float(loss.detach() if world is None else world.sum(loss)))
    return losses


def compare(name: str, world: World) -> dict[str, object]:
    batch = make_batch(SEQUENCES, BUDGET)
    valid = valid_targets(batch)
    alone, many = member(*name.split()), sharded(name, world)
    equal = all(torch.equal(whole(p), q) for p, q in zip(many.parameters(), alone.parameters(), strict=True))
    loss = loss_of(alone, batch, valid)
    mine = loss_of(many, part(batch, world), valid)
    loss.backward()
    mine.backward()
    result = {"equal": equal, "loss": abs(float(world.sum(mine)) - float(loss.detach())), "gradient": worst(many, alone)}
    batches = [make_batch(SEQUENCES, BUDGET, seed=i, first_sequence=SEQUENCES * i) for i in range(STEPS)]
    tape: list[Tensor] = []
    expected = descend(member(*name.split()), batches, None, tape)
    replayed = descend(sharded(name, world), batches, world, list(tape))
    own: list[Tensor] = []
    with choices(own, None):
        free = descend(sharded(name, world), batches, world, None)
    result["flipped"] = flipped(tape, own, world)
    result["replayed"] = max(abs(a - b) for a, b in zip(expected, replayed, strict=True))
    result["free"] = max(abs(a - b) for a, b in zip(expected, free, strict=True))
    return result


def lacking(name: str, world: World) -> dict[str, object]:
    """The first rank has no image, the second no text, the others no target."""
    batches = [make_batch(4, (64, 0) if r == 0 else (0, 64) if r == 1 else BUDGET, seed=r) for r in range(world.size)]
    batches = [replace(b, targets=torch.full_like(b.targets, -1)) if r > 1 else b for r, b in enumerate(batches)]
    alone, many = member(*name.split()), sharded(name, world)
    valid = valid_targets(*batches)
    for batch in batches:
        loss_of(alone, batch, valid).backward()
    loss_of(many, batches[world.rank], valid).backward()
    return {"gradient": worst(many, alone)}


def dtypes(world: World) -> dict[str, str]:
    """What a router sees and computes in when products are in bf16."""
    seen: dict[str, str] = {}
    compute = routers.logits

    def watched(x: Tensor, weight: Tensor) -> Tensor:
        z = compute(x, weight)
        seen.update(rows=str(x.dtype), weight=str(weight.dtype), logits=str(z.dtype))
        return z

    model, batch = sharded("moma_4t4i", world, torch.bfloat16), part(make_batch(SEQUENCES, BUDGET), world)
    noise = torch.zeros(len(model.blocks), batch.tokens.numel(), model.n_experts)
    block = model.blocks[0]
    block.experts.router.register_forward_pre_hook(lambda module, args: seen.update(noise=str(args[2].dtype)))
    routers.logits = watched
    try:
        hidden = model(batch, lambda h, w: h, noise)[0]
    finally:
        routers.logits = compute
    return seen | {"hidden": str(hidden.dtype)}


def auxiliary(name: str, world: World) -> dict[str, object]:
    """A lesson and a causal forward, sharded and alone; only auxiliary routers learn."""
    batch = make_batch(SEQUENCES, BUDGET)
    alone, many = member(name, auxiliary=True), sharded(name, world, auxiliary=True)
    losses = []
    for model, mine, share in ((alone, batch, 1), (many, part(batch, world), world.size)):
        freeze(model, ["*auxiliary*"])
        with torch.no_grad():
            decisions = model(mine, lambda hidden, head: None, None, "teaching")[1]
        loss = sum(bce(lesson) for _, _, lesson in lessons(decisions)) / share
        loss.backward()
        losses.append(loss.detach())
    dtype = sorted({str(p.dtype) for path, p in many.named_parameters() if "auxiliary" in path})
    with torch.no_grad():
        expected = model_hidden(alone, part(batch, world))
        got = model_hidden(many, part(batch, world))
    return {
        "loss": abs(float(world.sum(losses[1])) - float(losses[0])),
        "gradient": worst(many, alone),
        "causal": float((got - expected).abs().max()),
        "sharded": all(isinstance(p, DTensor) for path, p in many.named_parameters() if "auxiliary" in path),
        "dtype": dtype,
    }


def model_hidden(model: Transformer, batch: Batch) -> Tensor:
    return model(batch, lambda hidden, head: hidden, None, "causal")[0]


def main() -> None:
    torch.set_num_threads(1)
    with join(CPU, timeout=120, replicas=int(sys.argv[2])) as world:
        names = sys.argv[3:]
        results: dict[str, object] = {name: compare(name, world) for name in names}
        results |= {f"{name} lacking": lacking(name, world) for name in names}
        results["dtypes"] = dtypes(world)
        results |= {f"{name} auxiliary": auxiliary(name, world) for name in ("moma_4t4i", "mod_moma_4t4i")}
        if world.main:
            Path(sys.argv[1]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
