"""What an autoencoder is to the quantizer between its halves."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from torch import Tensor, nn


class Coded(Protocol):
    """The part of an architecture that the codes need."""

    @property
    def codes(self) -> int: ...
    @property
    def code_dim(self) -> int: ...


class VQAutoencoder(nn.Module):
    """Items <-> unit vectors, which a quantizer replaces by codes."""

    @abstractmethod
    def encode(self, items: Tensor) -> Tensor:
        """(N, ...) -> unit vectors (N, L, code_dim), fp32."""

    @abstractmethod
    def decode(self, vectors: Tensor) -> Tensor:
        """-> the shape of the items, fp32."""
