"""The configuration of a VQ image tokenizer and its training. Values live in `configs/tokenizer/*.yaml`, not here.

`Architecture` is what a weights file must say of itself to be loaded; `VQConfig` adds how the weights are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from momafuse.vq.config import VQTraining


@dataclass(frozen=True)
class Architecture:
    """Blocks and channels are listed along the way of the data: encoder at 1/4 and 1/8, decoder at 1/8, 1/4 and 1/2."""

    image_size: int  # pixels, a multiple of 8
    codes: int
    code_dim: int
    encoder_channels: tuple[int, int]
    encoder_blocks: tuple[int, int]
    decoder_channels: tuple[int, int, int]
    decoder_blocks: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class VQConfig(VQTraining):
    """`batch` counts pictures; the loss of reconstruction is that of pixels."""

    kind: Literal["vq"]
    architecture: Architecture
    max_shift: int  # pixels, of the training variants
    colour_share: float  # of the training pictures that get their colour channels permuted
