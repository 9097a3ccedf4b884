"""The configuration of the speech tokenizer and its training. Values live in `configs/tokenizer/speech_vq.yaml`, not here.

`SpeechArchitecture` is what a weights file must say of itself to be loaded; `SpeechVQConfig` adds how the weights are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from momafuse.vq.config import VQTraining


@dataclass(frozen=True)
class SpeechArchitecture:
    """Channels and blocks at the rate of frames (100 a second) and of codes (25)."""

    codes: int
    code_dim: int
    frame_channels: int
    code_channels: int
    frame_blocks: int  # in the encoder, and as many in the decoder
    encoder_blocks: int
    decoder_blocks: int


@dataclass(frozen=True, kw_only=True)
class SpeechVQConfig(VQTraining):
    """Items are excerpts; the loss of reconstruction is that of log-mel frames."""

    kind: Literal["speech_vq"]
    architecture: SpeechArchitecture
    excerpt: int  # codes in a training excerpt
