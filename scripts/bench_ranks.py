"""What many ranks cost: the sharded step against one process, a save against steps without, and what ranks send.

    torchrun --standalone --nproc-per-node 1 scripts/bench_ranks.py moma_4t4i     # what FSDP costs where nothing is shared out
    torchrun --standalone --nproc-per-node 2 scripts/bench_ranks.py moma_4t4i     # two ranks against one process

Everything is paired in one run: in each round the main process alone makes a step of the whole batch without FSDP (with the
threads of all ranks, while the others wait), then all ranks make it together, each its part; both take turns in being first.
A save is timed with the SPAN steps after it, beside SPAN steps without; the thread that writes works while they go on. Times
are those of the main process, ratios medians over the rounds. Not the loop: no data, no reports.

Prints JSON: {"ranks", "alone_seconds", "sharded_seconds", "ratio", "save_steps": delay in steps, "save_call_steps", "sent_mb":
what one rank sends in a step by collective, "dtype", "reduce_dtype", "threads", "rounds"}.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from bench_step import STARTER, steps, steps_of
from timing import seconds
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from momafuse.checkpoint.saving import Keep, Saver
from momafuse.config.compose import compose
from momafuse.ending import leave
from momafuse.errors import RankError, UserError
from momafuse.parallel.precision import resolve_device
from momafuse.training.optimizer import build_optimizer
from momafuse.training.setup import build_model
from momafuse.world import World, join

SPAN = 8  # steps that a save is timed with: it is written within them, or the result says so
RING = {"_allgather_base_": 1.0, "_reduce_scatter_base_": 1.0, "allreduce_": 2.0}  # times (n - 1) / n of the whole tensor


class Sent(TorchDispatchMode):
    """Bytes that this rank sends in the collectives of a step, if they go round a ring (the least there is)."""

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.ranks = ranks
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.removeprefix("c10d::")
            largest = max((t.numel() * t.itemsize for t in tree_leaves(args) if isinstance(t, Tensor)), default=0)
            self.bytes[name] += int(RING.get(name, 0.0) * largest * (self.ranks - 1) / self.ranks)
        return func(*args, **(kwargs or {}))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def measure(world: World, words: list[str], rounds: int) -> dict[str, object]:
    """Every rank must call it; the result is the main process's."""
    config = compose(words).config
    batch = config.trainer.global_batch
    if batch % (world.size * config.router.pool):
        raise UserError(
            f"trainer.global_batch={batch}: {world.size} ranks need a multiple of {world.size * config.router.pool}"
        )
    own = torch.get_num_threads()
    alone = steps(compose([*words, f"trainer.micro_batch={batch}"]).config)[0] if world.main else None
    mine = compose([*words, f"trainer.micro_batch={batch // world.size}"]).config
    model, dtype = build_model(mine, STARTER, world)
    optimizer = build_optimizer(model, mine.optim)
    sharded = steps_of(mine, model, optimizer, world.device, nullcontext)[0]

    def one() -> float:
        with threads(own * world.size):
            taken = seconds(alone, world.device) if alone is not None else 0.0
        world.gather(0.0)  # the others wait
        return taken

    def all_ranks() -> float:
        world.gather(0.0)
        return seconds(sharded, world.device)

    for _ in range(3):
        one()
        all_ranks()
    times: dict[Callable[[], float], list[float]] = {one: [], all_ranks: []}
    for i in range(rounds):
        for action in (one, all_ranks) if i % 2 else (all_ranks, one):
            times[action].append(action())
    with Sent(world.size) as sent:
        sharded()
    step = statistics.median(times[all_ranks])
    return {
        "ranks": world.size,
        "alone_seconds": round(statistics.median(times[one]), 4),
        "sharded_seconds": round(step, 4),
        "ratio": round(statistics.median(b / max(a, 1e-9) for a, b in zip(*times.values(), strict=True)), 3),
        **saves(world, sharded, model, optimizer, step, max(3, rounds // 3)),
        "sent_mb": {name: round(n / 1e6, 2) for name, n in sent.bytes.items() if n},
        "dtype": str(dtype).removeprefix("torch."),
        "reduce_dtype": mine.trainer.reduce_dtype,
        "threads": own,
        "rounds": rounds,
    }


def saves(
    world: World, step: Callable[[], None], model: nn.Module, optimizer: Optimizer, usual: float, rounds: int
) -> dict[str, object]:
    """How many steps of `usual` seconds a save delays the SPAN steps that begin with it, and how long its call takes."""
    delays, calls, late = [], [], 0
    root = Path(world.on_main(lambda: tempfile.mkdtemp(prefix="bench-saves-")))

    def span() -> None:
        for _ in range(SPAN):
            step()

    with Saver(root, Keep(1), world) as saver:
        saver.save(0, model, [optimizer], {}, "")  # makes room for the copy
        saver.wait()
        for i in range(1, rounds + 1):
            world.gather(0.0)
            without = seconds(span, world.device)
            world.gather(0.0)
            calls.append(seconds(lambda i=i: saver.save(i, model, [optimizer], {}, ""), world.device) / usual)
            delays.append(calls[-1] + (seconds(span, world.device) - without) / usual)
            late += seconds(saver.wait, world.device) > 0.1 * usual
    world.on_main(lambda: shutil.rmtree(root))
    found: dict[str, object] = {
        "save_steps": round(statistics.median(delays), 3),
        "save_call_steps": round(statistics.median(calls), 3),
    }
    return found | {f"saves_not_written_within_{SPAN}_steps": late, "save_rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="moma_4t4i")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides, as for momafuse.train")
    args = parser.parse_args()
    words = [f"+experiment={args.experiment}", f"size={args.size}", f"trainer.precision={args.precision}", *args.set]
    if "RANK" not in os.environ:
        parser.error("start it with torchrun, see --help")
    try:
        with join(resolve_device("auto"), timeout=600) as world:
            result = measure(world, words, args.rounds)
            if world.main:
                print(json.dumps(result, indent=1))
    except RankError as end:
        leave(end)


if __name__ == "__main__":
    main()
