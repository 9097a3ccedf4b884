"""What the image tokenizer learns from and by: training pictures by number, each in its variant, and the losses of a batch.

Every number of the endless order of training stands for one picture and one variant, drawn by (seed, number) alone, so that a
step holds the same pictures however it is dealt to ranks and micro-batches, and wherever a run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.vision.augment import augment, to_unit
from momafuse.vision.config import VQConfig
from momafuse.vision.losses import pixel_error
from momafuse.vision.perceptual import LEAST_SIDE, Lite0
from momafuse.vq.order import Order, generator_of

Losses = Callable[[Tensor, Tensor], dict[str, Tensor]]  # of the output and the items, (N,) each, by name; their sum is learnt


class PictureList(Protocol):
    """uint8 (3, size, size) by number."""

    size: int

    def __getitem__(self, number: int) -> Tensor: ...


class TrainingPictures:
    """`larger`: the same pictures twice as large, where some training pictures are cut from those."""

    def __init__(self, config: VQConfig, seed: int, order: Order, pictures: PictureList, larger: PictureList | None) -> None:
        self._config, self._seed, self._order, self._pictures, self._larger = config, seed, order, pictures, larger

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """float32 (n, 3, S, S) in [-1, 1]."""
        c, size = self._config, self._pictures.size
        found = []
        for number in numbers:
            generator, row = generator_of(self._seed, number), self._order.place(number)
            if self._larger is not None and float(torch.rand((), generator=generator)) < c.crop_share:
                top, left = torch.randint(self._larger.size - size + 1, (2,), generator=generator).tolist()
                picture = self._larger[row][:, top : top + size, left : left + size]
            else:
                picture = self._pictures[row]
            found.append(augment(picture, c.max_shift, c.colour_share, generator))
        return to_unit(torch.stack(found)).contiguous(memory_format=torch.channels_last)


def losses_of(config: VQConfig, device: torch.device | str = "cpu") -> Losses:
    """Of pictures and what is left of them, both (N, 3, H, W) in [-1, 1]. Raises UserError where the network is missing."""
    weight = config.perceptual_weight
    if not weight:
        return lambda output, target: {"pixels": pixel_error(output, target)}
    if config.architecture.image_size < LEAST_SIDE:
        problem = f"the network wants pictures of at least {LEAST_SIDE} pixels a side"
        raise UserError(f"tokenizer.perceptual_weight={weight}: {problem}; write 0")
    network = Lite0()
    if torch.device(device).type != "cpu":
        network.to(device)

    def losses(output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"pixels": pixel_error(output, target), "features": weight * network.distance(output, target)}

    return losses
