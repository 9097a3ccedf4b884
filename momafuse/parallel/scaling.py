"""What a step costs on many GPUs: memory of each, bytes between them, seconds of a simple model. Computed, not measured.

Memory of a rank, bytes. Shards: weights, gradients, optimizer, cut as sharding.py cuts them. Gathered: embedding, head and last
norm for the whole of forward and backward, and two blocks (the next comes while one is computed). Gradients before they are
summed: those of the root, and a block's on their way. Working: what one micro-batch takes on one device (reports/memory.py),
a block's new gradients among it, without copies of weights. Their sum is a bound: not all peak at once.

Bytes that a rank receives in a step, and sends as many (rings; n ranks share the shards, R replicas, m micro-batches):

    all-gather       (n - 1) / n of a block, twice a micro-batch (forward, backward); the root once
    reduce-scatter   (n - 1) / n of its gradients, once a micro-batch
    all-reduce       2 (R - 1) / R of the shard's gradients, once a micro-batch (HSDP)

Seconds. Compute: FLOPs (recomputed ones too) / (efficiency peak). A collective: bytes / bandwidth + HOP a step of its ring.
The bandwidth is that of the links where all its ranks are of one node, else what the network adapters of a node give together,
at most the links'; an all-reduce between nodes has one adapter. A block is gathered and reduced while another is computed: each
takes the longer of the two; the root's are waited for. The optimizer, the data and stragglers are not in it.

MFU counts no recomputed FLOPs. Sums of the loss and numbers that ranks exchange on the host are too small to count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from momafuse.config.schema import Config
from momafuse.models.transformer import Transformer
from momafuse.parallel.sharding import shard_dim
from momafuse.reports.flops import RECOMPUTED, TRAINING, layer_flops
from momafuse.reports.gpus import Gpu
from momafuse.reports.memory import Memory
from momafuse.reports.work import model_work
from momafuse.routing.depth import DepthRouter
from momafuse.routing.routers import Router

HOP = 4e-6  # seconds a step of a ring; an assumption: the order of what small messages take
OPTIMIZER = 2  # moments of AdamW
FP32 = 4  # bytes


@dataclass(frozen=True)
class Cluster:
    nodes: int
    gpus_per_node: int
    replicas: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def shards(self) -> int:
        """Ranks that share one model."""
        return self.ranks // self.replicas


@dataclass(frozen=True)
class Unit:
    """What is gathered and reduced together: numbers of parameters, and bytes of each for gathering and for reducing."""

    numbers: int  # of the whole, padded to equal shards
    learning: int  # of those that have gradients
    gather: int
    reduce: int

    @property
    def gathered(self) -> int:
        return self.numbers * self.gather

    @property
    def reduced(self) -> int:
        return self.learning * self.reduce


def units(model: Transformer, shards: int, dtype: torch.dtype, reduce_dtype: torch.dtype) -> tuple[list[list[Unit]], Unit]:
    """Those of each block (the block, its routers), and the root's."""

    def unit(parameters: Iterable[nn.Parameter], gather: torch.dtype, reduce: torch.dtype) -> Unit:
        found = [(padded(p, shards), p.requires_grad) for p in parameters]
        return Unit(sum(n for n, _ in found), sum(n for n, learns in found if learns), gather.itemsize, reduce.itemsize)

    blocks, apart = [], set()
    for block in model.blocks:
        routers = [list(m.parameters()) for m in block.modules() if isinstance(m, Router | DepthRouter)]
        of_routers = {p for parameters in routers for p in parameters}
        own = [p for p in block.parameters() if p not in of_routers]
        exact = [unit(parameters, torch.float32, torch.float32) for parameters in routers]
        blocks.append([unit(own, dtype, reduce_dtype), *exact])
        apart |= set(block.parameters())
    return blocks, unit((p for p in model.parameters() if p not in apart), dtype, reduce_dtype)


def padded(p: nn.Parameter, shards: int) -> int:
    """Numbers of a parameter when every shard is as large as the largest."""
    length = p.shape[shard_dim(p, shards)]
    return p.numel() // length * (-(-length // shards) * shards)


def scaling(config: Config, model: Transformer, budget: tuple[int, ...], memory: Memory, dtype: torch.dtype, cluster: Cluster,
            gpu: Gpu | None, efficiency: float) -> dict[str, Any]:  # fmt: skip
    """Plain values, as describe prints them; `memory`: of a micro-batch on one device, with gradients there before. Without a
    GPU there are no seconds."""
    t = config.trainer
    reduce_dtype = torch.bfloat16 if t.reduce_dtype == "bf16" else torch.float32
    blocks, root = units(model, cluster.shards, dtype, reduce_dtype)
    micro_batches = t.global_batch // cluster.ranks // t.micro_batch
    values: dict[str, Any] = {
        "ranks": cluster.ranks,
        "nodes": cluster.nodes,
        "shards": cluster.shards,
        "replicas": cluster.replicas,
        "micro_batches": micro_batches,
        "memory": rank_memory(blocks, root, cluster.shards, memory),
        "bytes_received": traffic(blocks, root, cluster, micro_batches),
    }
    if gpu is None:
        return values
    return values | {"seconds": _seconds(config, model, budget, blocks, root, cluster, micro_batches, gpu, efficiency)}


def rank_memory(blocks: list[list[Unit]], root: Unit, shards: int, memory: Memory) -> dict[str, int | None]:
    every = [root, *(u for block in blocks for u in block)]
    weights, learning = (sum(n) // shards * FP32 for n in ([u.numbers for u in every], [u.learning for u in every]))
    largest = max(blocks, key=lambda block: sum(u.gathered for u in block))
    parts: dict[str, int | None] = {
        "weights": weights,
        "gradients": learning,
        "optimizer": OPTIMIZER * learning,
        "gathered": root.gathered + 2 * sum(u.gathered for u in largest),
        "gradients_before_they_are_summed": root.learning * root.gather + sum(u.reduced for u in largest),
        "working": None,
    }
    if memory.peak is None or memory.activations is None:
        return parts | {"total": None}
    alone = memory.weights + memory.gradients + memory.optimizer
    working = memory.peak - alone - memory.activations["weight_copies"]
    return parts | {"working": working, "total": working + sum(n for n in parts.values() if n is not None)}


def traffic(blocks: list[list[Unit]], root: Unit, cluster: Cluster, micro_batches: int) -> dict[str, dict[str, int]]:
    """Collective -> bytes of each number (as text) -> bytes that a rank receives in a step."""
    n, copies = cluster.shards, cluster.replicas
    found: dict[str, dict[str, int]] = {"all_gather": {}, "reduce_scatter": {}, "all_reduce": {}}

    def add(collective: str, size: int, amount: int) -> None:
        name = {2: "bf16", 4: "fp32"}[size]
        found[collective][name] = found[collective].get(name, 0) + micro_batches * amount

    for passes, unit in [(1, root), *((2, u) for block in blocks for u in block)]:
        add("all_gather", unit.gather, passes * unit.gathered // n * (n - 1))
        add("reduce_scatter", unit.reduce, unit.reduced // n * (n - 1))
        if copies > 1:
            add("all_reduce", unit.reduce, 2 * unit.reduced // n * (copies - 1) // copies)
    return found


def _seconds(config: Config, model: Transformer, budget: tuple[int, ...], blocks: list[list[Unit]], root: Unit,
             cluster: Cluster, micro_batches: int, gpu: Gpu, efficiency: float) -> dict[str, float]:  # fmt: skip
    t, n, copies = config.trainer, cluster.shards, cluster.replicas
    within = gpu.link if n <= cluster.gpus_per_node else min(gpu.link, cluster.gpus_per_node * gpu.net)
    across = gpu.link if cluster.nodes == 1 else gpu.net

    def ring(size: int, ranks: int, bandwidth: float) -> float:
        return size / ranks * (ranks - 1) / bandwidth + (ranks - 1) * HOP if ranks > 1 else 0.0

    def gather(block: list[Unit]) -> float:
        return sum(ring(u.gathered, n, within) for u in block)

    def reduce(block: list[Unit]) -> float:
        replicated = sum(2 * ring(u.reduced // n, copies, across) for u in block)
        return sum(ring(u.reduced, n, within) for u in block) + replicated

    work = model_work(config.model, config.router, model.modality_names, budget)
    recomputed = RECOMPUTED[t.activation_checkpointing]
    speed = gpu.flops * efficiency * work.pool / t.micro_batch  # pools of a micro-batch
    layers = [layer_flops(config.model, work, layer) for layer in work.layers]
    head = 2 * config.model.dim * model.head.weight.shape[0] * work.rows
    compute, communication = TRAINING * head / speed, gather([root]) + reduce([root])
    step = compute + communication
    for block, parts in zip(blocks, layers, strict=True):
        forward = sum(parts.values()) / speed
        backward = 2 * forward + sum(flops for part, flops in parts.items() if recomputed(part)) / speed
        step += max(forward, gather(block)) + max(backward, gather(block) + reduce(block))
        compute += forward + backward
        communication += 2 * gather(block) + reduce(block)
    model_flops = TRAINING * (head + sum(sum(parts.values()) for parts in layers)) * t.micro_batch / work.pool
    rows = t.micro_batch * sum(budget)
    return {
        "compute": micro_batches * compute,
        "communication": micro_batches * communication,
        "step": micro_batches * step,
        "mfu": model_flops / (step * gpu.flops),
        "tokens_per_second_per_gpu": rows / step,
    }
