"""What a model gets: one micro-batch of packed sequences.

B sequences of S positions, T = B * S rows in sequence order. Every sequence holds exactly `budget[m]` tokens of modality m,
so capacities and shapes are host constants. Holds data only: it plans no sequence (packing.py) and routes nothing (routing/).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Integer tensors of one micro-batch; `budget` is the number of tokens of each modality in *every* sequence."""

    tokens: Tensor  # (B, S) int64
    targets: Tensor  # (B, S) int64, the next token of the same document, -1 where there is none
    modality: Tensor  # (B, S) uint8, the modality of the input token
    document: Tensor  # (B, S) int32, number of the document within its sequence, from 0
    position: Tensor  # (B, S) int32, place in the sequence
    sequence: Tensor  # (B,) int64, global number of the sequence (keys router noise)
    begins: Tensor  # (n + 1,) int32, the first row of each of the n documents among the T, then T
    order: Tensor  # (T,) int64, row numbers sorted by modality, then by row: the by-modality order, made once a batch
    budget: tuple[int, ...]  # host integers, tokens of each modality in a sequence; sum = S

    @property
    def shape(self) -> tuple[int, int]:
        return self.tokens.shape[0], self.tokens.shape[1]

    def to(self, device: torch.device | str) -> Batch:
        """Copies wait for nothing if the batch is pinned; from other memory a GPU's copies wait for all work before them."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same in memory that a GPU copies from by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {f.name: change(getattr(self, f.name)) for f in fields(self) if f.name != "budget"}
        return replace(self, **changed)


def begins_of(document: Tensor) -> Tensor:
    """document (B, S), the same number in all rows of a document -> `Batch.begins`; waits for the device that it lies on."""
    first = torch.ones_like(document, dtype=torch.bool)
    first[:, 1:] = document[:, 1:] != document[:, :-1]
    begins = first.flatten().nonzero()[:, 0]
    return torch.cat([begins, begins.new_full((1,), document.numel())]).to(torch.int32)
