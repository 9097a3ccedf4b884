"""What every rank of tests/checkpoint/test_layouts.py runs: save and load at one number of ranks, and say what was held.

    torchrun --nproc-per-node N -m tests.checkpoint.ranks OUT.json MEMBER [load=FOLDER | upcycle=FOLDER | save=FOLDER |
        full=FOLDER:RANK] ...

OUT.json gets the digest of every parameter and optimizer state after each word. `full`: saved while the disk of one rank
takes only small files.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from momafuse.checkpoint import store
from momafuse.checkpoint.saving import Keep, Saver
from momafuse.checkpoint.tensors import StoredTensors
from momafuse.checkpoint.upcycling import upcycle
from momafuse.config.compose import compose
from momafuse.config.schema import UpcyclingConfig
from momafuse.errors import UserError
from momafuse.models.initialise import initialise
from momafuse.parallel.sharding import fill, holds, shard
from momafuse.training.optimizer import build_optimizer, freeze
from momafuse.world import World, join
from tests.members import member

UPCYCLING = UpcyclingConfig(optimizer="tiled", weight_noise=0.1, redraw=0.25, capacity_steps=0)
FROZEN_BUT = ("*.experts.*", "head.weight")


def built(name: str, world: World, seed: int) -> tuple[nn.Module, AdamW]:
    """A sharded member of which a part learns."""
    model = member(name)
    freeze(model, FROZEN_BUT)
    if world.mesh is not None:
        shard(model, world.mesh, torch.float32, torch.float32)
    initialise(model, seed, holds)
    return model, build_optimizer(model, compose(["size=micro"]).config.optim)


def learn(model: nn.Module, optimizer: AdamW) -> None:
    """One step with gradients that depend on the path alone."""
    for path, p in model.named_parameters():
        if p.requires_grad:
            generator = torch.Generator().manual_seed(len(path) * 1000 + sum(path.encode()))
            p.grad = torch.empty_like(p)
            fill(p.grad, torch.randn(p.shape, generator=generator))
    optimizer.step()
    optimizer.zero_grad()


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def digest(x: Tensor) -> str:
    return hashlib.sha256(whole(x.detach()).contiguous().numpy().tobytes()).hexdigest()[:16]


def held(model: nn.Module, optimizer: AdamW) -> dict[str, str]:
    """Every rank must call it: tensors are gathered."""
    found = {}
    for path, p in model.named_parameters():
        found[path] = digest(p)
        found |= {f"{path} {key}": digest(torch.as_tensor(x)) for key, x in optimizer.state.get(p, {}).items()}
    return found


def main() -> None:
    out, name, *words = sys.argv[1:]
    torch.set_num_threads(1)
    with join(torch.device("cpu"), timeout=120) as world:
        model, optimizer = built(name, world, seed=0)
        learn(model, optimizer)
        results: dict[str, object] = {}
        for word in words:
            action, _, target = word.partition("=")
            folder, _, rank = target.partition(":")
            if action == "upcycle":
                model, optimizer = built(name, world, seed=0)
                upcycle(model, optimizer, StoredTensors(store.find(Path(folder))), UPCYCLING, 0, fill)
                results[word] = held(model, optimizer)
                continue
            if action == "load":
                model, optimizer = built(name, world, seed=7)
                store.load(store.find(Path(folder)), model, [optimizer], world)
                results[word] = held(model, optimizer)
                continue
            results[word] = held(model, optimizer)
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)
            if action == "full" and world.rank == int(rank):
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
            try:
                with Saver(Path(folder), Keep(2), world) as saver:
                    saver.save(int(action == "full") + 1, model, [optimizer], {"ranks": world.size}, "a: 1\n")
                    with torch.no_grad():  # the run goes on while it is written
                        for p in model.parameters():
                            p.add_(1.0)
            except UserError as error:
                results[f"{word} said"] = world.on_all(lambda said=str(error): said)
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        if world.main:
            Path(out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
