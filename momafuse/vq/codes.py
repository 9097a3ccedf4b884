"""Where codes live, and which one is nearest to a vector: all that a trained tokenizer needs of its quantizer.

    sphere   vectors are made unit, so that the nearest code is the one of largest inner product (Yu et al., arXiv 2110.04627)
    plane    vectors are taken as they are; the nearest code is that of least distance
    cube     each number goes through tanh; the codes are a grid in [-1, 1]^D (finite scalar quantization, quantizer.py)

Shapes: T vectors, C codes, D their width. Knows nothing of what codes stand for, nor of training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from momafuse.vq.config import Space

ROWS = 128  # vectors compared with all codes at a time: the scores stay in the cache


def place(vectors: Tensor, space: Space) -> Tensor:
    """Any (..., D), what an encoder gives -> the same shape, where the codes live."""
    if space == "sphere":
        return F.normalize(vectors, dim=-1)
    return torch.tanh(vectors) if space == "cube" else vectors


def nearest(vectors: Tensor, codes: Tensor, space: Space = "sphere") -> Tensor:
    """(T, D), (C, D), both where codes live -> (T,) int64: the nearest code, the lowest number among equals."""
    if space == "sphere":
        return torch.cat([(part @ codes.T).argmax(dim=1) for part in torch.split(vectors, ROWS)])
    half = codes.square().sum(dim=1) / 2  # |v - c|^2 / 2 less |v|^2 / 2
    return torch.cat([(part @ codes.T - half).argmax(dim=1) for part in torch.split(vectors, ROWS)])


@dataclass(frozen=True)
class CodeTable:
    """The codes of a trained tokenizer."""

    values: Tensor  # (C, D)
    space: Space

    @property
    def device(self) -> torch.device:
        return self.values.device

    def nearest(self, vectors: Tensor) -> Tensor:
        """(T, D), as the encoder gives them -> (T,) int64."""
        return nearest(place(vectors, self.space), self.values, self.space)

    def __getitem__(self, index: Tensor) -> Tensor:
        """int64 of any shape -> (..., D)."""
        return self.values[index]
