"""What a finished speech tokenizer is worth on sounds, by its stored weights: codes used, and the error of log-mel frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from momafuse.speech.tokenizer import SpeechTokenizer
from momafuse.speech.training import Sound

DECIBEL = 20  # per unit of a common logarithm of magnitudes


@dataclass(frozen=True)
class SpeechQuality:
    """Mean absolute and root mean squared error of decoded log-mel frames, dB; `codes_used` of them, and of how many places."""

    sounds: int
    seconds: float
    places: int
    codes_used: int
    perplexity: float  # exp of the entropy of the uses of codes
    error: float
    error_rms: float


def measure(tokenizer: SpeechTokenizer, sounds: Sequence[Sound]) -> SpeechQuality:
    """Encodes and decodes every sound once; at least one."""
    uses = torch.zeros(tokenizer.codes, dtype=torch.int64)
    total, squares, count = 0.0, 0.0, 0
    for sound in sounds:
        frames = sound.frames.float()
        codes = tokenizer.codes_of(frames)
        uses += torch.bincount(torch.from_numpy(codes), minlength=tokenizer.codes)
        distance = (tokenizer.frames_from(codes) - frames).double()
        total, squares, count = (
            total + float(distance.abs().sum()),
            squares + float(distance.square().sum()),
            count + frames.numel(),
        )
    share = uses[uses > 0] / uses.sum()
    return SpeechQuality(
        sounds=len(sounds),
        seconds=round(sum(sound.frames.shape[1] for sound in sounds) / 100, 2),
        places=int(uses.sum()),
        codes_used=int((uses > 0).sum()),
        perplexity=math.exp(-math.fsum((share * share.log()).tolist())),
        error=DECIBEL * total / count,
        error_rms=DECIBEL * math.sqrt(squares / count),
    )
