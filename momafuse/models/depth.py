"""A block of a mixture of depths: its router keeps a share of the rows, and only these go through the block.

    y[t] = x[t] + g[t] (block(x_kept)[t] - x[t])  for kept rows,   y[t] = x[t]  for the others
    (routing/depth.py says how rows are kept; MoMa, arXiv 2407.21770 section 2.3; 2404.02258)

Kept rows attend among themselves and, inside the block, are routed to experts among themselves ("staged"): a row that is
passed by is no key and no value there. State: that of a block, `depth_router.weight (1, D)`, and if asked for
`depth_auxiliary.*` (routing/auxiliary.py), which keeps rows under causal routing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from momafuse.config.schema import DepthConfig, ModelConfig
from momafuse.kernels.experts import Backend
from momafuse.models.block import Block, Decision
from momafuse.models.context import Context, Recipe
from momafuse.models.experts import Experts
from momafuse.routing.auxiliary import Auxiliary, Lesson
from momafuse.routing.depth import DepthRouter, Kept
from momafuse.routing.names import ALL


class DepthBlock(Block):
    def __init__(
        self,
        config: ModelConfig,
        modality_names: Sequence[str],
        experts: Experts,
        backend: Backend,
        *,
        depth: DepthConfig,
        pool: int,
        recipe: Recipe,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(config, modality_names, experts, backend)
        self.depth_router = DepthRouter(config.dim, depth.capacity, depth.per_modality, pool)
        self.depth_auxiliary = Auxiliary({ALL: 1}, config.dim) if auxiliary else None
        self.recipe = recipe

    def forward(self, x: Tensor, context: Context, noise: Tensor | None) -> tuple[Tensor, Decision]:
        """x (B, S, D), noise (T, E) fp32 or None -> the same shape, and what both routers decided."""
        rows = x.flatten(0, 1)
        kept, lesson = self._keep(rows, context)
        if not kept.rows.numel() and context.routing != "causal":  # a capacity of no row at all, the same on every rank
            return x, Decision(None, kept, depth_lesson=lesson)
        numbers = kept.rows.flatten()
        mine = rows.index_select(0, numbers).view(*kept.rows.shape, rows.shape[1])
        y, decision = super().forward(
            mine, self.recipe.of_kept(context, kept, x.dtype), None if noise is None else noise[numbers]
        )
        change = kept.gates.to(x.dtype).unsqueeze(-1) * (y - mine)
        y = rows.index_add(0, numbers, change.flatten(0, 1)).view_as(x)
        # spelled out, for torch 2.11 does not compile `decision._replace`
        return y, Decision(decision.experts, kept, decision.lesson, lesson)

    def _keep(self, rows: Tensor, c: Context) -> tuple[Kept, Lesson | None]:
        if c.replay is not None and c.replay.kept is not None:
            return self.depth_router(rows, c.rows, again=c.replay.kept), None
        if c.routing == "training":
            return self.depth_router(rows, c.rows), None
        assert self.depth_auxiliary is not None, "this routing needs auxiliary routers"
        if c.routing == "causal":
            return self.depth_router(rows, c.rows, self.depth_auxiliary(rows)), None
        kept: Kept = self.depth_router(rows, c.rows)
        with torch.enable_grad():  # the model around it may run without
            guessed = self.depth_auxiliary(rows)
        taken = torch.zeros(len(rows), dtype=torch.bool, device=rows.device).index_fill(0, kept.rows.flatten(), True)
        return kept, Lesson(guessed, taken[:, None], torch.ones_like(taken)[:, None], c.rows.modality.flatten())
