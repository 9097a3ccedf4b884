"""The decoder: embedding, blocks of attention and experts, norm, head.

State: `embedding.weight (V, D)`, `blocks.I.{attention_norm,attention,ffn_norm,experts}.*` (block.py), where layer I is one of
a mixture of depths `blocks.I.depth_router.weight`, `norm.weight (D,)`, `head.weight (V, D)`; embedding and head are not tied.
The loss is computed inside `forward` by the objective it is given, so that logits of the whole batch never exist and a
sharded head is gathered once. Every weight follows the dtype of the rows, which is that of the embedding's output.
Does not know files, devices, precision or ranks, and keeps no statistics: it returns what its routers decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from momafuse.config.schema import ModelConfig
from momafuse.kernels.experts import Backend
from momafuse.models.block import Block, Decision
from momafuse.models.context import Input, recipe, rotary_table
from momafuse.models.depth import DepthBlock
from momafuse.models.experts import Experts, expert_groups, layer_groups
from momafuse.models.memory import Memory, ModelMemory
from momafuse.models.norms import Norm
from momafuse.routing.auxiliary import Routing
from momafuse.routing.config import RouterConfig
from momafuse.routing.kinds import EXPERT_CHOICE, KINDS
from momafuse.routing.routers import Router

T = TypeVar("T")
Objective = Callable[[Tensor, Tensor], T]  # hidden (T, D), head weight (V, D) -> anything
Observe = Callable[[int, Tensor], None]  # number of a layer, its output (B, S, D)


class Head(nn.Module):
    """The output embedding, applied by the objective: a module of its own, so that sharding gathers it where it is used."""

    def __init__(self, dim: int, ids: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(ids, dim))

    def forward(self, hidden: Tensor, objective: Objective[T]) -> T:
        """hidden (T, D) -> what the objective makes of it and the weight (V, D) in the dtype of the rows."""
        return objective(hidden, self.weight.to(hidden.dtype))


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
        """`vocabulary_size` is the number of ids; `model.vocabulary_size` may ask for more rows."""
        super().__init__()
        self.config = config
        self.router = router
        self.modality_names = tuple(modality_names)
        self.groups = expert_groups(config, modality_names)
        self.recipe = recipe(self.groups, config.tower_names(modality_names), config.untie, backend)
        ids = config.vocabulary_size or vocabulary_size
        assert ids >= vocabulary_size, "validated against the tokenizers before"
        self.embedding = nn.Embedding(ids, config.dim)
        self.blocks = nn.ModuleList(self._block(layer, router, backend) for layer in range(config.n_layers))
        self.norm = Norm(config.dim, config.norm_eps)
        self.head = Head(config.dim, ids)

    def _block(self, layer: int, r: RouterConfig, backend: Backend) -> Block:
        c, names = self.config, self.modality_names
        groups = layer_groups(c, names, layer)
        routed = any(g.experts > 1 for g in groups)
        router = KINDS[r.kind].load()(groups, c.dim, r) if routed else None
        experts = Experts(groups, c.dim, router, backend, r.auxiliary)
        if c.depth is None or not c.skips(layer):
            return Block(c, names, experts, backend)
        return DepthBlock(c, names, experts, backend, depth=c.depth, pool=r.pool, recipe=self.recipe, auxiliary=r.auxiliary)

    def routers(self) -> list[Router | None]:
        """Of each layer; None where no group has several experts."""
        return [block.experts.router for block in self.blocks if isinstance(block, Block)]

    @property
    def n_experts(self) -> int:
        return sum(g.experts for g in self.groups)

    @property
    def routes(self) -> bool:
        """Whether any router chooses: an expert among rows, a row among experts, or which rows a layer keeps."""
        return self.config.depth is not None or self.chooses_experts

    @property
    def looks_ahead(self) -> bool:
        """Whether training sees the future: what a row meets hangs on later ones (routing/kinds.py, routing/depth.py)."""
        return self.config.depth is not None or (self.chooses_experts and self.router.looks_ahead)

    @property
    def needs_auxiliary(self) -> bool:
        """Whether choosing causally takes auxiliary routers."""
        return self.config.depth is not None or (self.chooses_experts and self.router.needs_auxiliary)

    @property
    def leaves_sizes(self) -> bool:
        """Whether only the device knows how many rows an expert takes."""
        return self.chooses_experts and self.router.kind != EXPERT_CHOICE

    @property
    def chooses_experts(self) -> bool:
        """Whether a row may go to no, one or several of the experts of its group."""
        return any(g.experts > 1 for g in self.groups)

    def memory(self, sequences: int, length: int, *, read: bool) -> ModelMemory:
        """Room for the keys and values of so many sequences of at most `length` rows; `read`: see memory.py."""
        c = self.config
        heads, device = c.attention.n_kv_heads or c.n_heads, self.embedding.weight.device
        dtype = self.embedding(torch.zeros(1, dtype=torch.int64, device=device)).dtype  # that of all rows
        return ModelMemory(c.n_layers, sequences, heads, length, c.dim // c.n_heads, dtype, device, read=read)

    def forward(
        self,
        batch: Input,
        objective: Objective[T],
        noise: Tensor | None = None,
        routing: Routing = "training",
        observe: Observe | None = None,
        memory: Sequence[Memory] | None = None,
        replay: Sequence[Decision] | None = None,
    ) -> tuple[T, list[Decision]]:
        """noise (layers, T, E) fp32 or None -> what the objective makes of the last hidden rows, and each layer's decision.

        `routing` says who chooses (routing/auxiliary.py); `causal` needs auxiliary routers where the kind of router does, and
        no row depends on later ones under it. `observe` gets the output of every layer.
        With the decisions of an earlier forward to `replay` routers choose as they did then, and weigh anew.
        `memory` of each layer holds earlier rows of these sequences, each one document.
        """
        x = self.embedding(batch.tokens)
        a = self.config.attention
        table = rotary_table(batch.position, self.config.dim // self.config.n_heads, a.rope_theta)
        span = batch.document if a.document_mask and memory is None else None
        context = self.recipe.context(batch, table, span, x.dtype, routing, batch.begins)
        decisions = []
        for i, block in enumerate(self.blocks):
            mine = context if memory is None else replace(context, memory=memory[i])
            mine = mine if replay is None else replace(mine, replay=replay[i])
            x, decision = block(x, mine, None if noise is None else noise[i])
            decisions.append(decision)
            if observe is not None:
                observe(i, x)
        return self.head(self.norm(x).flatten(0, 1), objective), decisions
