"""Auxiliary routers: what a main router would choose, guessed from one row alone, so that a model of choices becomes causal.

    s(x) = W_2 silu(W_1 x),   score = sigmoid(s);   at inference a row is taken where score > 0.5, that is s > 0
    (MoMa, arXiv 2407.21770, auxiliary routers for inference; hidden width D / 2, no biases)

One for each routed group of experts with an output an expert, and one with a single output for a layer of a mixture of
depths. They learn in a stage of their own by binary cross-entropy against the rows that the main routers took; the weight of
a taken row stays the main router's sigmoid. They read the rows detached: the main model never learns from them.

Shape legend: T rows, D width, E experts of the routed groups, M modalities. State: `hidden.GROUP (D / 2, D)`,
`score.GROUP (E_g, D / 2)`. Does not choose (routers.py, depth.py) and does not learn (training/auxiliary.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from momafuse.routing.plan import Plan

# training: main routers choose among all rows, later ones too. teaching: the same, and auxiliary routers say what they would
# have taken. causal: auxiliary routers choose, each row by itself.
Routing = Literal["training", "teaching", "causal"]


@dataclass(frozen=True)
class Lesson:
    """What auxiliary routers said of rows, and what the main routers did with them."""

    logits: Tensor  # (T, E) fp32 at least, differentiable
    taken: Tensor  # (T, E) bool
    served: Tensor  # (T, E) bool: only these decisions count
    modality: Tensor  # (T,) uint8


class Auxiliary(nn.Module):
    def __init__(self, outputs: Mapping[str, int], dim: int) -> None:
        """`outputs`: the experts of each group, in order."""
        super().__init__()
        self.names = tuple(outputs)
        width = max(1, dim // 2)
        self.hidden = nn.ParameterDict({name: nn.Parameter(torch.empty(width, dim)) for name in outputs})
        self.score = nn.ParameterDict({name: nn.Parameter(torch.empty(n, width)) for name, n in outputs.items()})

    def forward(self, x: Tensor) -> Tensor:
        """x (T, D) -> logits (T, E) in fp32 at least, with a gradient to the weights whatever the mode outside."""
        rows = x.detach().to(torch.promote_types(x.dtype, torch.float32))  # once for all groups
        return torch.cat([self.of_group(name, rows) for name in self.names], dim=1)

    def of_group(self, name: str, x: Tensor) -> Tensor:
        """x (T, D) -> logits (T, E_g) of one group."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        hidden, score = self.hidden[name].to(dtype), self.score[name].to(dtype)
        z: Tensor = silu(x.detach().to(dtype) @ hidden.t()) @ score.t()
        return z


def taken_by(plan: Plan, rows: int) -> Tensor:
    """(T, E) bool: which expert of all groups took which row; padding is none."""
    experts = plan.offsets.numel() - 1
    places = torch.arange(plan.rows.numel(), device=plan.rows.device)
    expert = torch.searchsorted(plan.offsets[1:], places, right=True)  # padding counts as expert E
    taken = torch.zeros(rows * (experts + 1), dtype=torch.bool, device=plan.rows.device)
    return taken.index_fill(0, plan.rows * (experts + 1) + expert, True).view(rows, experts + 1)[:, :experts]
