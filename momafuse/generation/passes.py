"""Rows of ids as a model reads them outside of training: one document a sequence, of whatever modalities.

Shape legend: B sequences, S rows of the longest. Shorter ones are padded at their ends, which no earlier row sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from momafuse.tokens.vocabulary import Vocabulary


@dataclass(frozen=True)
class Pass:
    """A model's `Input` (models/context.py). `budget` is known where all sequences have as many rows of each modality."""

    tokens: Tensor  # (B, S) int64
    modality: Tensor  # (B, S) uint8
    document: Tensor  # (B, S) int32, 0
    position: Tensor  # (B, S) int64
    order: Tensor  # (B * S,) int64
    begins: Tensor  # (B + 1,) int32
    budget: tuple[int, ...] | None


def pass_of(
    rows: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    device: torch.device,
    positions: Sequence[int] | None = None,
) -> Pass:
    """Rows of ids, none empty; `positions`: how many rows each sequence has had before (none)."""
    s = max(map(len, rows))
    tokens = np.full((len(rows), s), vocabulary.specials.pad, np.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    modality = vocabulary.modality_of_ids()[tokens]
    counts = [tuple(np.bincount(row, minlength=len(vocabulary.names)).tolist()) for row in modality]
    before = np.zeros(len(rows), np.int64) if positions is None else np.array(positions, np.int64)

    def there(x: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(x).to(device)

    return Pass(
        tokens=there(tokens),
        modality=there(modality),
        document=there(np.zeros(tokens.shape, np.int32)),
        position=there(before[:, None] + np.arange(s)),
        order=there(modality.ravel().argsort(kind="stable")),
        begins=there(np.arange(len(rows) + 1, dtype=np.int32) * s),
        budget=counts[0] if len(set(counts)) == 1 else None,
    )
