"""What a stage of VQ training (stage.py) is about: pictures (pictures.py) or speech (speech.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from momafuse.vq.autoencoder import Coded, VQAutoencoder
from momafuse.vq.codes import CodeTable
from momafuse.vq.config import DiscriminatorConfig, VQTraining

M = TypeVar("M", bound=VQAutoencoder)
Say = Callable[[str], None]


class Task(ABC, Generic[M]):
    item: ClassVar[str]  # what a batch counts, e.g. picture
    config: VQTraining
    architecture: Coded
    reads: str  # for people
    data: str  # fingerprint of all items that can be used: their order hangs on it
    rejects: list[tuple[str, str]]  # what cannot be used, and why
    summary: str  # a line: how many items there are

    @abstractmethod
    def model(self) -> M:
        """With fresh weights, drawn by torch's own generator. Raises UserError for sizes that cannot be."""

    @abstractmethod
    def batch(self, numbers: Sequence[int]) -> Tensor:
        """The training items of these numbers of the endless order (vq/order.py), on the host."""

    @abstractmethod
    def losses(self, device: torch.device) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """Of the output and the items, (N,) each, by name; their sum is learnt."""

    def discriminator(self) -> tuple[nn.Module, DiscriminatorConfig] | None:
        """The network that is to tell items from what is left of them, if there is one."""
        return None

    @abstractmethod
    def save(self, path: Path, model: M, codes: CodeTable) -> None:
        """The weights file."""

    @abstractmethod
    def judged(self, weights: Path, device: torch.device) -> dict[str, float]:
        """Figures of some held-out items, by the weights in that file: names and values as metrics have them."""

    @abstractmethod
    def sheet(self, weights: Path, picture: Path, device: torch.device) -> None:
        """Held-out items and what is left of them."""

    @abstractmethod
    def finish(self, weights: Path, more: Mapping[str, object], device: torch.device, say: Say) -> dict[str, object]:
        """Measure the finished tokenizer, write what belongs beside its weights, say it. -> what the report holds"""
