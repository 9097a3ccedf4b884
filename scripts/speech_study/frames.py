"""The distance of a decoded sound from the original, in log-mel frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from momafuse.speech.audio import Samples
from momafuse.speech.mel import BANDS, FLOOR, HOP, RATE, log_mel
from momafuse.speech.tokenizer import levelled

LAGS = range(-8, 9)  # frames by which a codec may be late
TELEPHONE = 3_700  # Hz: up to here both codecs say something


@dataclass
class Error:
    """Sums over frames, dB."""

    absolute: float = 0.0
    squares: float = 0.0
    numbers: int = 0

    def add(self, distance: torch.Tensor) -> None:
        self.absolute += 20 * float(distance.abs().sum())
        self.squares += 400 * float(distance.square().sum())
        self.numbers += distance.numel()

    @property
    def mean(self) -> float:
        return self.absolute / self.numbers

    @property
    def rms(self) -> float:
        return float((self.squares / self.numbers) ** 0.5)


def telephone_bands() -> int:
    """How many of the lowest bands lie below `TELEPHONE`."""
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + RATE / 1400), BANDS + 2) / 2595) - 1)
    return int((corners[2:] <= TELEPHONE).sum())


def distance(original: Samples, decoded: Samples, bands: int) -> torch.Tensor:
    """Log-mel frames of both levelled sounds, at the lag of least error."""
    if not len(decoded) or not np.abs(decoded).max() > 0:
        decoded = np.full(HOP, 1e-4, np.float32)
    first, second = (log_mel(torch.from_numpy(levelled(sound)))[:bands] for sound in (original, decoded))
    second = F.pad(second, (0, max(0, first.shape[1] - second.shape[1])), value=FLOOR)
    found = [first - torch.roll(second, -lag, 1)[:, : first.shape[1]] for lag in LAGS]
    return min(found, key=lambda d: float(d.abs().mean()))
