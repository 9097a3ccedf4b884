"""Trains a VQ image tokenizer on pictures: a plain autoencoder first, then k-means codes, then all of it together.

The first `plain_steps` train encoder and decoder without codes; k-means on the encoder's outputs makes the codes, which from
then on follow by EMA (quantizer.py). One warm-up and one cosine over all steps; what is judged and stored is the moving
average of the weights.
The order of pictures, their variants and all restarts hang on the seed alone.

Not here: reading pictures, choosing the split, the file format (tokenizer.py).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from momafuse.vision.augment import augment
from momafuse.vision.autoencoder import Autoencoder
from momafuse.vision.config import VQConfig
from momafuse.vision.losses import commitment_loss, pixel_loss
from momafuse.vision.optimizer import Muon, split_parameters
from momafuse.vision.pictures import PictureSet
from momafuse.vision.quantizer import EMAQuantizer, nearest, spherical_kmeans, straight_through
from momafuse.vision.report import Report, measure
from momafuse.vision.tokenizer import ImageTokenizer, save_tokenizer

KMEANS_VECTORS_PER_CODE = 8
KMEANS_ROUNDS = 8

Progress = Callable[[int, dict[str, float]], None]  # step number (from 1) and its figures


def train_vq(config: VQConfig, data: PictureSet, out: Path, progress: Progress | None = None) -> tuple[ImageTokenizer, Report]:
    """Trains on the pictures that are not held out, writes OUT/NAME.safetensors, and measures what was written."""
    model, codes = train(config, data.pictures[~data.heldout], progress)
    path = out / f"{config.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tokenizer(path, config.architecture, model, codes)
    tokenizer = ImageTokenizer.load(str(path))
    return tokenizer, measure(tokenizer, data)


def schedule(config: VQConfig, step: int) -> float:
    """The factor of the learning rates: linear warm-up, then a cosine to 0 at `config.steps`; `step` counts from 0."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def _batches(config: VQConfig, pictures: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Epochs without end: (batch, 3, S, S) in [-1, 1], each picture in a new variant."""
    while True:
        order = torch.randperm(len(pictures), generator=generator)
        for rows in torch.split(order, config.batch):
            if len(rows) == config.batch or len(pictures) < config.batch:
                batch = augment(pictures[rows], config.max_shift, config.colour_share, generator)
                yield batch.contiguous(memory_format=torch.channels_last)


def _first_codes(config: VQConfig, model: Autoencoder, batches: Iterator[Tensor], generator: torch.Generator) -> Tensor:
    """K-means over the encoder's outputs -> (codes, code_dim) unit vectors."""
    wanted = KMEANS_VECTORS_PER_CODE * config.architecture.codes
    vectors: list[Tensor] = []
    with torch.no_grad():
        while sum(map(len, vectors)) < wanted:
            vectors.append(model.encode(next(batches)).flatten(0, 1))
    return spherical_kmeans(torch.cat(vectors), config.architecture.codes, KMEANS_ROUNDS, generator)


class _Optimizer:
    """Both optimizers under one schedule."""

    def __init__(self, config: VQConfig, model: Autoencoder) -> None:
        kernels, rest = split_parameters(model)
        self.config = config
        self.muon = Muon(kernels, config.weight_decay, torch.bfloat16 if fast_bf16() else torch.float32)
        self.adam = torch.optim.Adam(rest, lr=config.lr, betas=(0.9, 0.98), fused=True)

    def step(self, step: int) -> None:
        """Updates the weights and clears their gradients."""
        factor = schedule(self.config, step)
        for group in self.adam.param_groups:
            group["lr"] = self.config.lr * factor
        self.adam.step()
        self.adam.zero_grad()
        self.muon.step(self.config.muon_lr * factor)


def fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware; elsewhere training runs in fp32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def train(config: VQConfig, pictures: Tensor, progress: Progress | None = None) -> tuple[Autoencoder, Tensor]:
    """uint8 pictures (N, 3, S, S) -> the averaged model in evaluation mode and the codes (C, D)."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = Autoencoder(config.architecture).channels_last()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = _Optimizer(config, model)
    batches = _batches(config, pictures, generator)
    quantizer: EMAQuantizer | None = None
    start = time.perf_counter()
    for step in range(config.steps):
        if step == config.plain_steps:
            codes = _first_codes(config, model, batches, generator)
            uses = config.batch * (config.architecture.image_size // 8) ** 2 / config.architecture.codes
            dead = config.restart_below * uses
            quantizer = EMAQuantizer(codes, config.code_decay, dead, uses=2 * dead)
        batch = next(batches)
        restart = step < config.restart_until * config.steps
        figures = _gradients(config, model, quantizer, batch, generator if restart else None)
        optimizer.step(step)
        decay = min(config.weight_ema, step / (step + 10))
        for kept, new in zip(average.parameters(), model.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)
        if progress is not None:
            progress(step + 1, figures | {"seconds": time.perf_counter() - start})
    assert quantizer is not None, "steps must exceed plain_steps"
    return average.eval(), quantizer.codes


def _gradients(
    config: VQConfig,
    model: Autoencoder,
    quantizer: EMAQuantizer | None,
    batch: Tensor,
    restart: torch.Generator | None,
) -> dict[str, float]:
    """Fills the gradients and updates the codes; without a quantizer the vectors pass as they are."""
    figures: dict[str, float] = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
        vectors = model.encode(batch)
        through = vectors
        commitment = vectors.new_zeros(())
        if quantizer is not None:
            flat = vectors.detach().flatten(0, 1)
            with torch.autocast("cpu", enabled=False):
                index = nearest(flat, quantizer.codes)
                quantized = quantizer.codes[index].view_as(vectors)
            through = straight_through(vectors, quantized)
            commitment = commitment_loss(vectors, quantized)
            quantizer.update(flat, index)
            if restart is not None:
                figures["restarted"] = float(quantizer.restart(flat, restart))
        output = model.decode(through)
    pixels = pixel_loss(output, batch)
    torch.autograd.backward(pixels + config.commitment_weight * commitment)
    return figures | {"loss": pixels.item(), "commitment": commitment.item()}
