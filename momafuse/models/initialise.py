"""Initial weights keyed by parameter path: the same at any layout, in any order, whatever else the model holds.

    embedding        N(0, 1) under swin, N(0, 0.02^2) under pre: with norms after the sub-layers each adds rows of RMS 1,
                     beside which a small embedding would be lost
    projections      N(0, 1 / fan_in); those that write to the stream (out, down) / sqrt(2 layers) under pre
    head, routers    N(0, 0.02^2); the first matrix of an auxiliary router N(0, 1 / fan_in)
    norms            1, their biases 0

The full tensor is drawn on the CPU in fp32 from a generator seeded by (seed, path) and copied to wherever the parameter is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from momafuse.models.transformer import Transformer


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


@torch.no_grad()
def initialise(model: Transformer, seed: int, fill: Callable[[Tensor, Tensor], object] = Tensor.copy_) -> None:
    """Fill every parameter in place; the model may lie on any device but meta. `fill(parameter, full tensor)` writes one."""
    config = model.config
    for path, p in model.named_parameters():
        if "norm" in path:
            nn.init.constant_(p, 0.0 if ".bias" in path else 1.0)
            continue
        std = _std(path, p, config.placement == "swin", config.n_layers)
        fill(p, torch.empty(p.shape).normal_(0, std, generator=generator(seed, path)))
