"""What routing may know of a batch. `data.batch.Batch` is both of these; rows kept by a depth router are `Rows` (depth.py)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Rows(Protocol):
    """B sequences of S rows, T = B * S rows in sequence order; what a router reads."""

    @property
    def tokens(self) -> Tensor: ...  # (B, S) int64, ids
    @property
    def position(self) -> Tensor: ...  # (B, S) integers, place in the sequence
    @property
    def modality(self) -> Tensor: ...  # (B, S) uint8
    @property
    def order(self) -> Tensor: ...  # (T,) int64, rows sorted by modality, then by row
    @property
    def budget(self) -> tuple[int, ...] | None: ...  # rows of each modality in every sequence; None: known to the device only


class NoiseKeys(Protocol):
    """Where each row stands: the keys of its noise."""

    @property
    def position(self) -> Tensor: ...  # (B, S) int32, place in the sequence
    @property
    def sequence(self) -> Tensor: ...  # (B,) int64, global number of the sequence
