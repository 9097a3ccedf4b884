"""Initial weights keyed by parameter path: the same at any layout, in any order, whatever else the model holds.

    embedding        N(0, 1) under swin, N(0, 0.02^2) under pre: with norms after the sub-layers each adds rows of RMS 1,
                     beside which a small embedding would be lost
    projections      N(0, 1 / fan_in); those that write to the stream (out, down) / sqrt(2 layers) under pre
    head, routers    N(0, 0.02^2); the first matrix of an auxiliary router N(0, 1 / fan_in)
    norms            1, their biases 0

The flattened full tensor is drawn in blocks, each on the CPU in fp32 from a generator seeded by (seed, path, block). So a rank
draws the blocks that it holds a part of and no others, many threads draw at once, and every layout has the same weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from momafuse.models.transformer import Transformer
from momafuse.routing.routers import State

BLOCK = 1 << 20  # elements: smaller ones cost more in seeding and starting, larger ones more where shards cut them


class Held(NamedTuple):
    """What this process holds of a parameter: `start` .. of dimension `dim`, and all of the others."""

    local: Tensor  # contiguous, on any device
    dim: int
    start: int


class Stretch(NamedTuple):
    """Elements of a block that lie together here."""

    in_block: int
    in_local: int
    length: int


def whole(p: Tensor) -> Held:
    return Held(p.detach(), 0, 0)


def _std(path: str, p: Tensor, swin: bool, layers: int) -> float:
    name = path.removesuffix(".weight")
    if name == "embedding":
        return 1.0 if swin else 0.02
    if name == "head" or "router" in path:
        return 0.02
    if "auxiliary.score." in path:
        return 0.02
    linear = any(part in path for part in (".qkv.", ".out.", "auxiliary.hidden."))  # (out, in), where stacks are (E, in, out)
    fan_in = p.shape[-1] if linear else p.shape[-2]
    writes = ".out." in path or name.endswith(".down")
    return float(fan_in**-0.5 * ((2 * layers) ** -0.5 if writes and not swin else 1))


def generator(seed: int, key: str) -> torch.Generator:
    """Random numbers of the CPU that depend on nothing else."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def threads() -> int:
    """Not torch's number, which is one under torchrun: the cores of this machine, shared by its processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def initialise(model: Transformer, seed: int, held: Callable[[Tensor], Held] = whole) -> None:
    """Fill every parameter in place, with all of this process's share of the cores; on any device but meta. `held` says what
    this process holds of a parameter."""
    config = model.config
    tasks: list[Iterator[Callable[[], None]]] = []
    for path, p in model.named_parameters():
        if "norm" in path:
            nn.init.constant_(p, 0.0 if ".bias" in path else 1.0)
            continue
        std = _std(path, p, config.placement == "swin", config.n_layers)
        tasks.append(_draws(p.shape, held(p), seed, path, std))
    for module in model.modules():
        if isinstance(module, State):
            module.reset()
    with ThreadPoolExecutor(threads()) as pool:
        for _ in pool.map(lambda draw: draw(), chain.from_iterable(tasks)):
            pass  # raises what a thread raised


def _draws(shape: torch.Size, held: Held, seed: int, path: str, std: float) -> Iterator[Callable[[], None]]:
    """One call for each block that a part of `held` lies in."""
    size, flat = shape.numel(), held.local.view(-1)
    blocks: dict[int, list[Stretch]] = {}
    for number, stretch in _stretches(shape, held):
        blocks.setdefault(number, []).append(stretch)
    for number, stretches in blocks.items():
        key = f"{path}:{number}" if number else path
        yield partial(_draw, flat, stretches, min(BLOCK, size - number * BLOCK), seed, key, std)


def _stretches(shape: torch.Size, held: Held) -> Iterator[tuple[int, Stretch]]:
    """The number of a block and what of it is held, in the order of the local tensor."""
    inner = shape[held.dim + 1 :].numel()
    length = held.local.shape[held.dim] * inner
    for outer in range(shape[: held.dim].numel() if length else 0):
        first = (outer * shape[held.dim] + held.start) * inner  # in the flattened full tensor
        at = first
        while at < first + length:
            number, in_block = divmod(at, BLOCK)
            n = min(BLOCK - in_block, first + length - at)
            yield number, Stretch(in_block, outer * length + at - first, n)
            at += n


def _draw(flat: Tensor, stretches: list[Stretch], size: int, seed: int, key: str, std: float) -> None:
    """Draw a block of `size` elements: where it belongs if all of it is held together on the CPU, else aside."""
    one = stretches[0]
    if one.length == size and flat.is_cpu and flat.dtype == torch.float32:
        flat[one.in_local : one.in_local + size].normal_(0, std, generator=generator(seed, key))
        return
    block = torch.empty(size).normal_(0, std, generator=generator(seed, key))
    for s in stretches:
        flat[s.in_local : s.in_local + s.length].copy_(block[s.in_block : s.in_block + s.length])
