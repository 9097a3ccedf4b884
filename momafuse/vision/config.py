"""The configuration of a VQ image tokenizer and its training. Values live in `configs/tokenizer/*.yaml`, not here.

An architecture is what a weights file must say of itself to be loaded; `VQConfig` adds how the weights are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from momafuse.vq.config import DiscriminatorConfig, VQTraining


@dataclass(frozen=True)
class Architecture:
    """The starter's (autoencoder.py).

    Blocks and channels are listed along the way of the data: encoder at 1/4 and 1/8, decoder at 1/8, 1/4 and 1/2.
    """

    image_size: int  # pixels, a multiple of 8
    codes: int
    code_dim: int
    encoder_channels: tuple[int, int]
    encoder_blocks: tuple[int, int]
    decoder_channels: tuple[int, int, int]
    decoder_blocks: tuple[int, int, int]
    decoder_window: int = 0  # side, in codes, of the windows in which the decoder attends; 0: it does not (as starter_vq_v1)

    @property
    def reduction(self) -> int:
        """Pixels of the picture's side per code."""
        return 8


@dataclass(frozen=True)
class VQGANArchitecture:
    """VQGAN's and Chameleon's (vqgan.py)."""

    image_size: int  # pixels, a multiple of the reduction
    codes: int
    code_dim: int
    base: int  # channels, a multiple of 32
    multipliers: tuple[int, ...]  # of base, one a level
    blocks: int  # residual blocks a level
    attention: tuple[int, ...]  # sides of grids that attend, beside the smallest, which does once in any case
    z: int  # channels between the encoder and the codes

    @property
    def reduction(self) -> int:
        """Pixels of the picture's side per code."""
        return 1 << (len(self.multipliers) - 1)


@dataclass(frozen=True, kw_only=True)
class VQConfig(VQTraining):
    """Items are pictures; the loss of reconstruction is that of pixels, and of features where they weigh anything."""

    kind: Literal["vq"]
    architecture: Architecture | VQGANArchitecture
    crop_share: float  # of the training pictures that are cut, of the architecture's size, from one twice as large
    max_shift: int  # pixels, of the training variants
    colour_share: float  # of the training pictures that get their colour channels permuted
    perceptual_weight: float  # of the perceptual distance (perceptual.py) beside the pixels' root mean squared error
    discriminator: DiscriminatorConfig | None
