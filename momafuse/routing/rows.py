"""What routing may know of a batch: where each row stands and which modality it has. `data.batch.Batch` is one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Rows(Protocol):
    """B sequences of S positions, T = B * S rows in sequence order, `budget[m]` rows of modality m in every sequence."""

    @property
    def modality(self) -> Tensor: ...  # (B, S) uint8
    @property
    def position(self) -> Tensor: ...  # (B, S) int32, place in the sequence
    @property
    def sequence(self) -> Tensor: ...  # (B,) int64, global number of the sequence
    @property
    def order(self) -> Tensor: ...  # (T,) int64, rows sorted by modality, then by row
    @property
    def budget(self) -> tuple[int, ...]: ...
