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
    """Items <-> vectors, which a quantizer replaces by codes."""

    decodes = True  # False: the half that makes items is not there (vision/vqgan.py)

    @abstractmethod
    def encode(self, items: Tensor) -> Tensor:
        """(N, ...) -> vectors (N, L, code_dim), fp32, before they are placed where the codes live (codes.py)."""

    @abstractmethod
    def decode(self, vectors: Tensor) -> Tensor:
        """Codes, or what is placed where they live, (N, L, code_dim) -> the shape of the items, fp32."""
