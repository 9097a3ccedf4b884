"""The convolutional encoder and decoder of speech: log-mel frames, 100 a second <-> vectors, 25 a second.

Residual blocks at both rates; four frames are folded into the channels of one place and back. No norms. Every residual branch
starts at zero. What is outside of an item is zero in every layer.

Shapes: N items, L codes, frames (N, 80, 4L) as speech/mel.py gives them. State-dict names: `encoder.*`, `decoder.*`. Knows
nothing of codes (vq/) nor of training (training.py).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from momafuse.speech.config import SpeechArchitecture
from momafuse.speech.mel import BANDS
from momafuse.vq.autoencoder import VQAutoencoder

FOLD = 4  # frames per code
MIDDLE = 2.5  # frames are shifted by this, so that their values lie around zero
DILATIONS = (1, 2, 4)  # of the blocks at the rate of codes, in turn


class ResidualBlock(nn.Module):
    """`x + W_1 silu(W_3 silu(x))`; the last weight starts at zero, so that depth costs nothing at the start."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.spread = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mix(F.silu(self.spread(F.silu(x))))
        return out


class Fold(nn.Module):
    """(N, C, 4L) -> (N, 4C, L)."""

    def forward(self, x: Tensor) -> Tensor:
        n, channels, length = x.shape
        return x.view(n, channels, length // FOLD, FOLD).transpose(2, 3).reshape(n, channels * FOLD, length // FOLD)


class Unfold(nn.Module):
    """(N, 4C, L) -> (N, C, 4L)."""

    def forward(self, x: Tensor) -> Tensor:
        n, channels, length = x.shape
        return x.view(n, channels // FOLD, FOLD, length).transpose(2, 3).reshape(n, channels // FOLD, length * FOLD)


class Encoder(nn.Sequential):
    """(N, 80, 4L) -> (N, code_dim, L), not normalised."""

    def __init__(self, arch: SpeechArchitecture) -> None:
        fine, coarse = arch.frame_channels, arch.code_channels
        super().__init__(
            nn.Conv1d(BANDS, fine, 3, padding=1),
            *(ResidualBlock(fine) for _ in range(arch.frame_blocks)),
            Fold(),
            nn.Conv1d(FOLD * fine, coarse, 1),
            *_blocks(coarse, arch.encoder_blocks),
            nn.SiLU(),
            nn.Conv1d(coarse, arch.code_dim, 1),
        )


class Decoder(nn.Sequential):
    """(N, code_dim, L) unit vectors -> (N, 80, 4L)."""

    def __init__(self, arch: SpeechArchitecture) -> None:
        fine, coarse = arch.frame_channels, arch.code_channels
        super().__init__(
            nn.Conv1d(arch.code_dim, coarse, 3, padding=1),
            *_blocks(coarse, arch.decoder_blocks),
            nn.Conv1d(coarse, FOLD * fine, 1),
            Unfold(),
            *(ResidualBlock(fine) for _ in range(arch.frame_blocks)),
            nn.SiLU(),
            nn.Conv1d(fine, BANDS, 3, padding=1),
        )


class SpeechAutoencoder(VQAutoencoder):
    """Encoder and decoder without the quantizer between them."""

    def __init__(self, arch: SpeechArchitecture) -> None:
        super().__init__()
        self.encoder = Encoder(arch)
        self.decoder = Decoder(arch)

    def encode(self, items: Tensor) -> Tensor:
        """(N, 80, 4L) -> vectors (N, L, code_dim), fp32."""
        z: Tensor = self.encoder(items + MIDDLE)
        return z.transpose(1, 2).float()

    def decode(self, vectors: Tensor) -> Tensor:
        """Vectors (N, L, code_dim), where codes live -> (N, 80, 4L), fp32."""
        out: Tensor = self.decoder(vectors.transpose(1, 2)).float()
        return out - MIDDLE


def reach(arch: SpeechArchitecture) -> int:
    """Codes on either side that a code, or a frame, hangs on at most."""
    frames = 1 + arch.frame_blocks
    coarse = max(_reach(arch.encoder_blocks), 1 + _reach(arch.decoder_blocks))
    return coarse + -(-frames // FOLD) + 1


def _reach(blocks: int) -> int:
    return sum(DILATIONS[n % len(DILATIONS)] for n in range(blocks))


def _blocks(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(channels, DILATIONS[n % len(DILATIONS)]) for n in range(count)]
