"""The forward of a training step of a VQ autoencoder: encoder, a code for each vector, decoder.

Encoder and decoder compute in the precision of the run, codes are chosen in fp32. Losses, gradients and updates are the
stage's (tokenizers/stage.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from momafuse.vq.autoencoder import VQAutoencoder
from momafuse.vq.quantizer import Choice, Quantizer


class Passed(NamedTuple):
    vectors: Tensor  # (N, L, D), what the encoder gave
    choice: Choice | None  # None: no code is chosen, the vectors pass as they are placed
    output: Tensor  # the shape of the items


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Products in the precision of the run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def passed(
    model: VQAutoencoder,
    quantizer: Quantizer,
    items: Tensor,
    dtype: torch.dtype,
    *,
    plain: bool = False,
    begins: Callable[[str], None] = lambda part: None,
) -> Passed:
    """Of items (N, ..); `begins` is told of each part: encoder, quantizer, decoder, loss."""
    with autocast(items.device, dtype):
        begins("encoder")
        vectors = model.encode(items)
        begins("quantizer")
        with torch.autocast(items.device.type, enabled=False):
            choice = None if plain else quantizer(vectors)
            through = quantizer.place(vectors) if choice is None else choice.vectors
        begins("decoder")
        output = model.decode(through)
    begins("loss")
    return Passed(vectors, choice, output)
