"""The decoder: embedding, blocks of attention and experts, norm, head.

    swin: h = x + norm(attention(x));   y = h + norm(experts(h))        (Chameleon-34B and MoMa; 2405.09818, 2407.21770)
    pre:  h = x + attention(norm(x));   y = h + experts(norm(h))

State: `embedding.weight (V, D)`, `blocks.I.{attention_norm,attention,ffn_norm,experts}.*`, `norm.weight (D,)`,
`head.weight (V, D)`; embedding and head are not tied. The loss is computed inside `forward` by the objective it is given, so
that logits of the whole batch never exist and a sharded head is gathered once.
Does not know files, devices, precision or ranks, and keeps no statistics: it returns its plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from momafuse.config.schema import ModelConfig, RouterConfig
from momafuse.data.batch import Batch
from momafuse.kernels.experts import Backend
from momafuse.models.attention import Attention, document_mask, rotary_table
from momafuse.models.experts import Experts, expert_width
from momafuse.routing.plan import Plan, groups_of
from momafuse.routing.routers import Router

T = TypeVar("T")
Objective = Callable[[Tensor, Tensor], T]  # hidden (T, D), head weight (V, D) -> anything


@dataclass(frozen=True)
class BlockContext:
    """What all blocks of one forward share: rotary table, attention mask, the batch."""

    table: Tensor
    mask: Tensor | None
    batch: Batch


class Block(nn.Module):
    def __init__(self, config: ModelConfig, experts: Experts) -> None:
        super().__init__()
        self.placement = config.placement
        self.attention = Attention(config.dim, config.n_heads, config.attention.qk_norm, config.norm_eps)
        self.attention_norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.experts = experts
        self.ffn_norm = nn.RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, context: BlockContext, noise: Tensor | None) -> tuple[Tensor, Plan | None]:
        """x (B, S, D), noise (T, E) fp32 or None -> the same shape, and the plan of the experts."""
        c = context
        if self.placement == "swin":
            h = x + self.attention_norm(self.attention(x, c.table, c.mask))
            y, plan = self.experts(h, c.batch, noise)
            return h + self.ffn_norm(y), plan
        h = x + self.attention(self.attention_norm(x), c.table, c.mask)
        y, plan = self.experts(self.ffn_norm(h), c.batch, noise)
        return h + y, plan


class Transformer(nn.Module):
    def __init__(
        self,
        config: ModelConfig,
        router: RouterConfig,
        *,
        vocabulary_size: int,
        modality_names: Sequence[str],
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.config = config
        self.groups = groups_of(config.experts, modality_names, expert_width(config.ffn, config.ffn_multiple_of))
        self.embedding = nn.Embedding(vocabulary_size, config.dim)
        self.blocks = nn.ModuleList(
            Block(config, self._experts(router, len(modality_names), backend)) for _ in range(config.n_layers)
        )
        self.norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, vocabulary_size, bias=False)

    def _experts(self, router: RouterConfig, n_modalities: int, backend: Backend) -> Experts:
        dim = self.config.dim
        return Experts(self.groups, dim, Router(self.groups, dim, n_modalities, router.pool, router.capacity_factor), backend)

    @property
    def n_experts(self) -> int:
        return sum(g.experts for g in self.groups)

    @property
    def routes(self) -> bool:
        """Whether any router chooses rows; if so, training sees the future (routing/routers.py)."""
        return any(g.experts > 1 for g in self.groups)

    def forward(self, batch: Batch, objective: Objective[T], noise: Tensor | None = None) -> tuple[T, list[Plan | None]]:
        """noise (layers, T, E) fp32 or None -> what the objective makes of the last hidden rows, and the plan of each layer."""
        x = self.embedding(batch.tokens)
        a = self.config.attention
        table = rotary_table(batch.position, self.config.dim // self.config.n_heads, a.rope_theta)
        context = BlockContext(table, document_mask(batch.document) if a.document_mask else None, batch)
        plans = []
        for i, block in enumerate(self.blocks):
            x, plan = block(x, context, None if noise is None else noise[i])
            plans.append(plan)
        return objective(self.norm(x).flatten(0, 1), self.head.weight), plans
