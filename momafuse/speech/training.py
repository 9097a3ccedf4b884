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
        codes=config.architecture.codes,
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
    """Excerpts without end, (batch, 80, 4 excerpt): every moment has the same chance, and silence fills short sounds."""
    length = FOLD * config.excerpt
    lengths = torch.tensor([sound.shape[1] for sound in sounds], dtype=torch.float64)
    while True:
        batch = torch.full((config.batch, BANDS, length), FLOOR)
        for row, number in zip(
            batch, torch.multinomial(lengths, config.batch, True, generator=generator).tolist(), strict=True
        ):
            sound = sounds[number]
            start = int(
                torch.randint(-min(length, sound.shape[1]) // 2, max(1, sound.shape[1] - length // 2), (), generator=generator)
            )
            part = sound[:, max(0, start) : start + length]
            row[:, max(0, -start) : max(0, -start) + part.shape[1]] = part
        yield batch
