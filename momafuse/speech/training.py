"""Trains the speech tokenizer on excerpts of sounds, by the shared training of VQ autoencoders (vq/training.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from momafuse.speech.autoencoder import FOLD, SpeechAutoencoder
from momafuse.speech.config import SpeechVQConfig
from momafuse.speech.mel import BANDS, FLOOR
from momafuse.speech.tokenizer import SpeechTokenizer, save_tokenizer
from momafuse.vq import training
from momafuse.vq.training import Progress, Task


@dataclass(frozen=True)
class Sound:
    """Log-mel frames (80, 4L), half precision, of one item."""

    frames: Tensor
    heldout: bool


def train_speech(
    config: SpeechVQConfig, sounds: Sequence[Sound], out: Path, progress: Progress | None = None
) -> SpeechTokenizer:
    """Trains on all of the sounds and writes OUT/NAME.safetensors."""
    task = Task(
        architecture=config.architecture,
        model=lambda: SpeechAutoencoder(config.architecture),
        batches=lambda generator: excerpts(config, [sound.frames for sound in sounds], generator),
        loss=frame_loss,
    )
    model, codes = training.train(config, task, progress)
    path = out / f"{config.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tokenizer(path, config.architecture, model, codes)
    return SpeechTokenizer.load(str(path))


def frame_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean distance of log-mel frames (N, 80, T), a scalar; 0.05 are 1 dB."""
    return (output - target).abs().mean()


def excerpts(config: SpeechVQConfig, sounds: Sequence[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
    """Excerpts without end, (batch, 80, 4 excerpt), of sounds by their lengths. Short sounds are whole, silence around them."""
    length = FOLD * config.excerpt
    beyond = length // 8  # frames by which an excerpt may reach over an end of a long sound
    chances = torch.tensor([sound.shape[1] for sound in sounds], dtype=torch.float64)
    while True:
        batch = torch.full((config.batch, BANDS, length), FLOOR)
        numbers = torch.multinomial(chances, config.batch, replacement=True, generator=generator)
        for row, number in zip(batch, numbers.tolist(), strict=True):
            sound = sounds[number]
            spare = sound.shape[1] - length
            low, high = (spare, 0) if spare < 0 else (-beyond, spare + beyond)
            start = int(torch.randint(low, high + 1, (), generator=generator))
            part = sound[:, max(0, start) : start + length]
            row[:, max(0, -start) : max(0, -start) + part.shape[1]] = part
        yield batch
