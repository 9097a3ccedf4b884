"""AdamW over two groups: matrices with weight decay; norms, embeddings, the head and routers without. Frozen ones in none.

The head counts as an embedding: it holds one vector a token, and decay would shrink those of rare tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.optim import AdamW

from momafuse.config.nearest import did_you_mean
from momafuse.config.schema import OptimConfig
from momafuse.errors import UserError


def decays(path: str) -> bool:
    """Whether the parameter at this path gets weight decay."""
    return not any(part in path for part in ("norm", "embedding", "head", "router", "auxiliary"))


def freeze(model: nn.Module, train: Sequence[str]) -> None:
    """Only parameters whose path matches a shell pattern of `train` learn. UserError for a pattern that matches none."""
    paths = [path for path, _ in model.named_parameters()]
    for pattern in train:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise UserError(f"optim.train={pattern}: matches no parameter{did_you_mean(pattern, paths)}")
    for path, p in model.named_parameters():
        p.requires_grad_(any(fnmatchcase(path, pattern) for pattern in train))


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """The fused implementation where every parameter lies on a device that has one (CPU and CUDA do)."""
    parameters = [(path, p) for path, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in parameters if decays(name)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in parameters if not decays(name)], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]  # an empty one comes back from a checkpoint without its settings
    fused = all(p.device.type in ("cpu", "cuda") for _, p in parameters)
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
