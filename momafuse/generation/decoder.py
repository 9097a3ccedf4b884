"""A model that goes on with sequences id by id, its earlier keys and values kept (models/memory.py).

Routers choose each row by itself: the auxiliary ones of the run, where it has routers at all. Shape legend: B sequences,
S rows of the longest prompt, V ids. Chooses nothing (sampling.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from momafuse.generation.passes import pass_of
from momafuse.models.memory import Memory
from momafuse.models.transformer import Transformer
from momafuse.routing.auxiliary import Routing
from momafuse.tokens.vocabulary import Vocabulary


class Decoder:
    """`start` with prompts once, then `step` with an id for each sequence."""

    def __init__(self, model: Transformer, vocabulary: Vocabulary, length: int) -> None:
        """`length`: ids that a sequence may have, its prompt's included."""
        self.model, self.vocabulary, self.length = model, vocabulary, length
        self._routing: Routing = "causal" if model.routes else "training"  # without routers nothing looks ahead

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Ids of each prompt, at least one -> logits (B, V) of the id behind it, fp32 at least."""
        self._had = [len(ids) for ids in prompts]
        longest = max(self._had)
        # a sequence that was padded has fewer rows than passes there were
        device = self.model.embedding.weight.device
        room = longest + self.length - min(self._had)
        self._memory = self.model.memory(len(prompts), room, read=device.type == "cpu")
        real = torch.arange(longest) < torch.tensor(self._had)[:, None]
        return self._pass(prompts, self._memory.passing(real.to(device)), None)

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> Tensor:
        """One id for each sequence -> logits (B, V) of the next."""
        real = torch.ones(len(ids), 1, dtype=torch.bool, device=self.model.embedding.weight.device)
        logits = self._pass([[i] for i in ids], self._memory.passing(real), self._had)
        self._had = [had + 1 for had in self._had]
        return logits

    @torch.inference_mode()
    def select(self, sequences: Sequence[int]) -> None:
        """Goes on with these alone; one may stand there several times."""
        self._had = [self._had[n] for n in sequences]
        self._memory.select(torch.tensor(sequences, device=self.model.embedding.weight.device))

    def _pass(self, rows: Sequence[Sequence[int]], memory: list[Memory], had: Sequence[int] | None) -> Tensor:
        batch = pass_of(rows, self.vocabulary, self.model.embedding.weight.device, had)
        last = torch.tensor([n * batch.tokens.shape[1] + len(ids) - 1 for n, ids in enumerate(rows)])

        def logits(hidden: Tensor, head: Tensor) -> Tensor:
            z = hidden[last.to(hidden.device)] @ head[: self.vocabulary.size].t()
            return z.to(torch.promote_types(z.dtype, torch.float32))

        found: Tensor = self.model(batch, logits, routing=self._routing, memory=memory)[0]
        return found
