"""What the speech tokenizer learns from and by: excerpts of sounds by number, and the loss of a batch.

Every number of the endless order of training stands for one excerpt, drawn by (seed, number) alone, so that a step holds the
same excerpts however it is dealt to ranks and micro-batches, and wherever a run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from momafuse.speech.autoencoder import FOLD
from momafuse.speech.mel import BANDS, FLOOR
from momafuse.vq.order import generator_of


@dataclass(frozen=True)
class Sound:
    """Log-mel frames (80, 4L), half precision, of one item."""

    frames: Tensor
    heldout: bool
    weight: float = 1.0  # how often it is trained on, beside others of its length


class Excerpts:
    """Of sounds by their lengths and weights, `codes` codes long. Short sounds are whole, silence around them."""

    def __init__(self, codes: int, seed: int, sounds: Sequence[Sound]) -> None:
        self._length, self._seed, self._sounds = FOLD * codes, seed, [sound.frames for sound in sounds]
        chances = [sound.weight * sound.frames.shape[1] for sound in sounds]
        self._ends = torch.tensor(chances, dtype=torch.float64).cumsum(0)

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """float32 (n, 80, length)."""
        length = self._length
        beyond = length // 8  # frames by which an excerpt may reach over an end of a long sound
        batch = torch.full((len(numbers), BANDS, length), FLOOR)
        for row, number in zip(batch, numbers, strict=True):
            generator = generator_of(self._seed, number)
            at = torch.rand((), generator=generator, dtype=torch.float64) * self._ends[-1]
            sound = self._sounds[int(torch.searchsorted(self._ends, at, right=True))]
            spare = sound.shape[1] - length
            low, high = (spare, 0) if spare < 0 else (-beyond, spare + beyond)
            start = int(torch.randint(low, high + 1, (), generator=generator))
            part = sound[:, max(0, start) : start + length]
            row[:, max(0, -start) : max(0, -start) + part.shape[1]] = part
        return batch


def frame_losses(output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Log-mel frames (N, 80, T) twice -> (N,) mean distances; 0.05 are 1 dB."""
    return {"frames": (output - target).abs().mean(dim=(1, 2))}
