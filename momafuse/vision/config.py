"""The configuration of a VQ image tokenizer and its training. Values live in `configs/tokenizer/*.yaml`, not here.

`Architecture` is what a weights file must say of itself to be loaded; `VQConfig` adds how the weights are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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


@dataclass(frozen=True)
class VQConfig:
    """One training run. Steps are optimizer steps; learning rates are per step."""

    kind: Literal["vq"]
    name: str  # of the weights file
    architecture: Architecture
    seed: int
    steps: int
    plain_steps: int  # of `steps`, the first without quantisation: a plain autoencoder
    batch: int  # pictures
    lr: float  # of Adam (biases, narrow kernels)
    muon_lr: float  # of Muon (all other kernels); both follow one schedule
    warmup_steps: int
    weight_decay: float  # of Muon's kernels, times muon_lr
    max_shift: int  # pixels, of the training variants
    colour_share: float  # of the training pictures that get their colour channels permuted
    commitment_weight: float  # beside the pixel loss, whose weight is 1
    code_decay: float  # of the EMA that moves the codes
    restart_below: float  # a code whose EMA count of uses falls below this share of the mean is restarted
    restart_until: float  # share of `steps` after which no code is restarted any more
    weight_ema: float  # decay of the averaged weights that are stored
