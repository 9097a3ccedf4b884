"""The configuration of a BPE and its training. Values live in `configs/tokenizer/*.yaml`, not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BPEConfig:
    """`pieces` counts all ids: 256 bytes, the unknown piece that is never used, characters and merges."""

    kind: Literal["bpe"]
    name: str
    pieces: int
    character_coverage: float  # share of the characters of the training text that get a piece; the rest goes as bytes
