"""AdamW over two groups: matrices with weight decay; norms, embeddings, the head and routers without.

The head counts as an embedding: it holds one vector a token, and decay would shrink those of rare tokens.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import AdamW

from momafuse.config.schema import OptimConfig


def decays(path: str) -> bool:
    """Whether the parameter at this path gets weight decay."""
    return not any(part in path for part in ("norm", "embedding", "head", ".router."))


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """The fused implementation where every parameter lies on a device that has one (CPU and CUDA do)."""
    parameters = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in parameters if decays(name)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in parameters if not decays(name)], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for _, p in parameters)
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
