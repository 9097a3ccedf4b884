"""Trains the image tokenizer on pictures in variants, by the shared training of VQ autoencoders (vq/training.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.vision.architectures import build
from momafuse.vision.augment import augment
from momafuse.vision.config import VQConfig
from momafuse.vision.losses import pixel_loss
from momafuse.vision.perceptual import LEAST_SIDE, Lite0
from momafuse.vision.pictures import PictureSet
from momafuse.vision.report import Report, measure
from momafuse.vision.tokenizer import ImageTokenizer, save_tokenizer
from momafuse.vq import training
from momafuse.vq.autoencoder import VQAutoencoder
from momafuse.vq.codes import CodeTable
from momafuse.vq.training import Progress, Task


def train_vq(config: VQConfig, data: PictureSet, out: Path, progress: Progress | None = None) -> tuple[ImageTokenizer, Report]:
    """Trains on the pictures that are not held out, writes OUT/NAME.safetensors, and measures what was written."""
    model, codes = train(config, data.pictures[~data.heldout], progress)
    path = out / f"{config.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tokenizer(path, config.architecture, model, codes)
    tokenizer = ImageTokenizer.load(str(path))
    return tokenizer, measure(tokenizer, data)


def train(config: VQConfig, pictures: Tensor, progress: Progress | None = None) -> tuple[VQAutoencoder, CodeTable]:
    """uint8 pictures (N, 3, S, S) -> the averaged model in evaluation mode and its codes."""
    task = Task(
        architecture=config.architecture,
        model=lambda: build(config.architecture),
        batches=lambda generator: _batches(config, pictures, generator),
        loss=loss_of(config),
    )
    return training.train(config, task, progress)


def loss_of(config: VQConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Of pictures and what is left of them, both (N, 3, S, S) in [-1, 1]. Raises UserError where the network is missing."""
    weight = config.perceptual_weight
    if not weight:
        return pixel_loss
    if config.architecture.image_size < LEAST_SIDE:
        problem = f"the network wants pictures of at least {LEAST_SIDE} pixels a side"
        raise UserError(f"tokenizer.perceptual_weight={weight}: {problem}; write 0")
    network = Lite0()
    return lambda output, target: pixel_loss(output, target) + weight * network.distance(output, target).mean()


def _batches(config: VQConfig, pictures: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Epochs without end: (batch, 3, S, S) in [-1, 1], each picture in a new variant."""
    while True:
        order = torch.randperm(len(pictures), generator=generator)
        for rows in torch.split(order, config.batch):
            if len(rows) == config.batch or len(pictures) < config.batch:
                batch = augment(pictures[rows], config.max_shift, config.colour_share, generator)
                yield batch.contiguous(memory_format=torch.channels_last)
