"""Training-side variants of pictures, so that three thousand of them do for a tokenizer: flip, shift, colour.

All are exact on pixels (nothing is resampled, so nothing is blurred), and what a shift uncovers is white, as the background is.
Not used when pictures are tokenised (data/ has its own, milder variants) nor in any evaluation.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

CHANNEL_ORDERS = tuple(itertools.permutations(range(3)))


def augment(picture: Tensor, max_shift: int, colour_share: float, generator: torch.Generator) -> Tensor:
    """uint8 (3, S, S) -> a variant of it.

    Half are mirrored, and all shifted by up to `max_shift` pixels each way; `colour_share` of
    them get their colour channels permuted.
    """
    size = picture.shape[-1]
    dy, dx = torch.randint(-max_shift, max_shift + 1, (2,), generator=generator).tolist()
    flip, colour, order = torch.rand(3, generator=generator).tolist()
    if flip < 0.5:
        picture = picture.flip(2)
    if colour < colour_share:
        picture = picture[list(CHANNEL_ORDERS[int(order * len(CHANNEL_ORDERS))])]
    out = torch.full_like(picture, 255)
    from_y, to_y, rows = max(0, -dy), max(0, dy), size - abs(dy)
    from_x, to_x, columns = max(0, -dx), max(0, dx), size - abs(dx)
    out[:, to_y : to_y + rows, to_x : to_x + columns] = picture[:, from_y : from_y + rows, from_x : from_x + columns]
    return out


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return pictures.float().div_(127.5).sub_(1.0)


def to_bytes(pictures: Tensor) -> Tensor:
    """Floats, about [-1, 1] -> uint8 0..255, rounded and clipped."""
    return pictures.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
