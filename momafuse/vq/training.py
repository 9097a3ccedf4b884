"""Trains a VQ autoencoder: a plain autoencoder first, then k-means codes, then all of it together.

The first `plain_steps` train encoder and decoder without codes; k-means on the encoder's outputs makes the codes, which from
then on follow by EMA (quantizer.py). One warm-up and one cosine over all steps; what is judged and stored is the moving
average of the weights. The order of items, their variants and all restarts hang on the seed alone.

What an item is, is the caller's: `Task` brings the model, the batches and the loss. Not here: reading items, the file format
(weights.py), judging (vision/report.py, speech/report.py).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from momafuse.vq.autoencoder import VQAutoencoder
from momafuse.vq.config import VQTraining
from momafuse.vq.optimizer import Muon, split_parameters
from momafuse.vq.quantizer import EMAQuantizer, commitment_loss, nearest, spherical_kmeans, straight_through

KMEANS_VECTORS_PER_CODE = 8
KMEANS_ROUNDS = 8

Progress = Callable[[int, dict[str, float]], None]  # step number (from 1) and its figures


M = TypeVar("M", bound=VQAutoencoder)


@dataclass(frozen=True)
class Task(Generic[M]):
    """`model` is made after the seed is set; `batches` come without end; `loss(output, batch)` is a scalar."""

    codes: int
    model: Callable[[], M]
    batches: Callable[[torch.Generator], Iterator[Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]


def schedule(config: VQTraining, step: int) -> float:
    """The factor of the learning rates: linear warm-up, then a cosine to 0 at `config.steps`; `step` counts from 0."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware; elsewhere training runs in fp32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def train(config: VQTraining, task: Task[M], progress: Progress | None = None) -> tuple[M, Tensor]:
    """-> the averaged model in evaluation mode and the codes (C, D)."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = task.model()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = _Optimizer(config, model)
    batches = task.batches(generator)
    quantizer: EMAQuantizer | None = None
    start = time.perf_counter()
    for step in range(config.steps):
        if step == config.plain_steps:
            quantizer = _first_codes(config, task.codes, model, batches, generator)
        batch = next(batches)
        restart = step < config.restart_until * config.steps
        figures = _gradients(config, model, quantizer, batch, task.loss, generator if restart else None)
        optimizer.step(step)
        decay = min(config.weight_ema, step / (step + 10))
        for kept, new in zip(average.parameters(), model.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)
        if progress is not None:
            progress(step + 1, figures | {"seconds": time.perf_counter() - start})
    assert quantizer is not None, "steps must exceed plain_steps"
    return average.eval(), quantizer.codes


def _first_codes(
    config: VQTraining, count: int, model: VQAutoencoder, batches: Iterator[Tensor], generator: torch.Generator
) -> EMAQuantizer:
    """A quantizer whose codes are k-means centres of the encoder's outputs."""
    vectors: list[Tensor] = []
    with torch.no_grad():
        while sum(map(len, vectors)) < KMEANS_VECTORS_PER_CODE * count:
            vectors.append(model.encode(next(batches)).flatten(0, 1))
    codes = spherical_kmeans(torch.cat(vectors), count, KMEANS_ROUNDS, generator)
    dead = config.restart_below * len(vectors[0]) / count
    return EMAQuantizer(codes, config.code_decay, dead, uses=2 * dead)


class _Optimizer:
    """Both optimizers under one schedule."""

    def __init__(self, config: VQTraining, model: nn.Module) -> None:
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


def _gradients(
    config: VQTraining,
    model: VQAutoencoder,
    quantizer: EMAQuantizer | None,
    batch: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
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
    error = loss(output, batch)
    torch.autograd.backward(error + config.commitment_weight * commitment)
    return figures | {"loss": error.item(), "commitment": commitment.item()}
