"""Trains a VQ autoencoder: a plain autoencoder first, then codes, then all of it together.

The first `plain_steps` train encoder and decoder without codes; then the quantizer (quantizer.py) begins, with k-means on the
encoder's outputs where it asks for them. One warm-up and one cosine over all steps; what is judged and stored is the moving
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

from momafuse.errors import UserError
from momafuse.vq.autoencoder import Coded, VQAutoencoder
from momafuse.vq.codes import CodeTable
from momafuse.vq.config import VQTraining
from momafuse.vq.optimizer import Muon, split_parameters
from momafuse.vq.quantizer import Choice, Quantizer, build_quantizer

Progress = Callable[[int, dict[str, float]], None]  # step number (from 1) and its figures


M = TypeVar("M", bound=VQAutoencoder)


@dataclass(frozen=True)
class Task(Generic[M]):
    """`model` is made after the seed is set; `batches` come without end; `loss(output, batch)` is a scalar."""

    architecture: Coded
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


def train(config: VQTraining, task: Task[M], progress: Progress | None = None) -> tuple[M, CodeTable]:
    """-> the averaged model in evaluation mode and the codes. Raises UserError for settings that contradict each other."""
    if config.steps <= config.plain_steps:
        raise UserError(f"tokenizer.steps={config.steps}: must be more than tokenizer.plain_steps={config.plain_steps}")
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = task.model()
    quantizer = build_quantizer(task.architecture, config.quantizer)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = _Optimizer(config, nn.ModuleList([model, quantizer]))
    batches = task.batches(generator)
    start = time.perf_counter()
    for step in range(config.steps):
        if step == config.plain_steps:
            _begin(task.architecture.codes, model, quantizer, batches, generator)
        batch = next(batches)
        vectors, choice, figures = _gradients(model, quantizer, batch, task.loss, plain=step < config.plain_steps)
        if choice is not None:
            restart = step < config.quantizer.restart_until * config.steps
            figures |= quantizer.update(vectors, choice, generator if restart else None)
        optimizer.step(step)
        decay = min(config.weight_ema, step / (step + 10))
        for kept, new in zip(average.parameters(), model.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)
        if progress is not None:
            progress(step + 1, figures | {"seconds": time.perf_counter() - start})
    return average.eval(), quantizer.table()


@torch.no_grad()
def _begin(
    codes: int, model: VQAutoencoder, quantizer: Quantizer, batches: Iterator[Tensor], generator: torch.Generator
) -> None:
    """The quantizer begins, on as many of the encoder's outputs as it asks for, at least those of a batch."""
    found = [model.encode(next(batches)).flatten(0, 1)]
    while sum(map(len, found)) < quantizer.wants:
        found.append(model.encode(next(batches)).flatten(0, 1))
    quantizer.begin(len(found[0]) / codes, torch.cat(found), generator)


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
    model: VQAutoencoder, quantizer: Quantizer, batch: Tensor, loss: Callable[[Tensor, Tensor], Tensor], *, plain: bool
) -> tuple[Tensor, Choice | None, dict[str, float]]:
    """Fills the gradients; `plain`: the vectors pass as they are placed, no code is chosen. -> vectors, the choice, figures."""
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
        vectors = model.encode(batch)
        with torch.autocast("cpu", enabled=False):
            choice = None if plain else quantizer(vectors)
            through = quantizer.place(vectors) if choice is None else choice.vectors
        output = model.decode(through)
    error = loss(output, batch)
    added = error.new_zeros(()) if choice is None else choice.loss
    torch.autograd.backward(error + added)
    return vectors.detach(), choice, {"loss": error.item(), "added": added.item()}
