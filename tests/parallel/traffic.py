"""What every rank of test_scaling.py runs: one training step of a sharded model, with its collectives counted and its memory.

    torchrun --nproc-per-node N -m tests.parallel.traffic OUT.json REPLICAS WORDS ...

A collective of n ranks on a buffer of b bytes in all: every rank receives (n - 1) / n of b, twice that for an all-reduce.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from momafuse.models.initialise import initialise
from momafuse.models.transformer import Transformer
from momafuse.parallel.checkpointing import apply_activation_checkpointing
from momafuse.parallel.precision import apply_precision
from momafuse.parallel.sharding import holds, shard
from momafuse.training.guard import local
from momafuse.world import join
from tests.reports.test_memory import VOCABULARY, configured, real_forward

CPU = torch.device("cpu")
SIZES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def bytes_of(x: Tensor) -> int:
    return x.numel() * x.element_size()


class Collectives(TorchDispatchMode):
    """Bytes received, by collective and dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, int]] = {"all_gather": {}, "reduce_scatter": {}, "all_reduce": {}}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("c10d."):
            if "_allgather_base_" in name:
                self.add("all_gather", args[0], bytes_of(args[0]) - bytes_of(args[1]))
            elif "_reduce_scatter_base_" in name:
                self.add("reduce_scatter", args[1], bytes_of(args[1]) - bytes_of(args[0]))
            elif "allreduce_" in name:
                (x,), group = args[0], dist.ProcessGroup.unbox(args[1])
                self.add("all_reduce", x, 2 * bytes_of(x) * (group.size() - 1) // group.size())
            else:
                raise AssertionError(name)
        return func(*args, **(kwargs or {}))

    def add(self, collective: str, x: Tensor, amount: int) -> None:
        sizes = self.found[collective]
        sizes[SIZES[x.dtype]] = sizes.get(SIZES[x.dtype], 0) + amount


def resident(key: str) -> int:
    with Path("/proc/self/status").open() as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(key))


def main() -> None:
    torch.set_num_threads(1)
    out, replicas, *words = sys.argv[1:]
    config = configured(*words)
    dtype = torch.bfloat16 if config.trainer.precision == "bf16" else torch.float32
    with join(CPU, timeout=300, replicas=int(replicas)) as world:
        with torch.device("meta"):
            model = Transformer(config.model, config.router, vocabulary_size=VOCABULARY.size, modality_names=VOCABULARY.names)
        apply_precision(model, dtype)
        apply_activation_checkpointing(model, config.trainer.activation_checkpointing)
        reduce_dtype = torch.bfloat16 if config.trainer.reduce_dtype == "bf16" else torch.float32
        shard(model, world.mesh, dtype, reduce_dtype)
        model.to_empty(device=CPU)
        initialise(model, 0, holds)
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):  # the first one loads libraries and makes the optimizer's state
            gc.collect()
            with Path("/proc/self/clear_refs").open("w") as file:
                file.write("5")  # the highest mark begins anew
            before = resident("VmRSS")
            with Collectives() as seen:
                held = real_forward(config, model)
                held[0].backward()
            grown = resident("VmHWM") - before
            del held
            optimizer.step()
        if world.main:
            kept = [*model.parameters(), *(p.grad for p in model.parameters())]
            kept += [x for state in optimizer.state.values() for x in state.values() if x.dim()]
            facts = {"received": seen.found, "grown": grown, "kept": sum(bytes_of(local(x)) for x in kept)}
            Path(out).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
