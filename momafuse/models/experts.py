"""The feed-forward half of a block: groups of experts, each group one stacked parameter per projection.

`dense` is one group of one expert for all modalities; `moma_4t4i` two groups of four; the class is the same (docs/design.md,
idea 2). Every group is computed on every step, with no rows if need be.

State: `router.weight.GROUP (E_g, D)` where E_g > 1, `GROUP.gate (E_g, D, F)`, `GROUP.up (E_g, D, F)`,
`GROUP.down (E_g, F, D)` under `groups.`. Does not choose rows (routing/) and does not multiply (kernels/).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from momafuse.kernels.experts import Backend, apply_experts
from momafuse.kernels.weights import GroupWeights
from momafuse.routing.plan import Group, Plan
from momafuse.routing.routers import Router
from momafuse.routing.rows import Rows


def expert_width(ffn: int, multiple_of: int) -> int:
    """The hidden width of a SwiGLU with the parameters of a plain FFN of width `ffn`: int(2/3 ffn), rounded up."""
    width = int(2 * ffn / 3)
    return -(-width // multiple_of) * multiple_of


class ExpertGroup(nn.Module):
    def __init__(self, group: Group, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(group.experts, dim, group.width))
        self.up = nn.Parameter(torch.empty(group.experts, dim, group.width))
        self.down = nn.Parameter(torch.empty(group.experts, group.width, dim))

    def forward(self) -> GroupWeights:
        """The stacks, as the op takes them."""
        return GroupWeights(self.gate, self.up, self.down)


class Experts(nn.Module):
    def __init__(self, groups: Sequence[Group], dim: int, router: Router, backend: Backend) -> None:
        super().__init__()
        self.router = router
        self.groups = nn.ModuleDict({g.name: ExpertGroup(g, dim) for g in groups})
        self.backend: Backend = backend

    def forward(self, x: Tensor, batch: Rows, noise: Tensor | None) -> tuple[Tensor, Plan | None]:
        """x (B, S, D), noise (T, E) or None -> y (B, S, D) and the plan it came from."""
        rows = x.flatten(0, 1)
        plan = self.router(rows, batch, noise)
        y = apply_experts(rows, plan, [g() for g in self.groups.values()], self.backend)
        return y.view_as(x), plan
