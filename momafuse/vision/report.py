"""What a finished tokenizer is worth, by its stored weights: how its codes are used, and what is left of held-out pictures.

PSNR and SSIM of pixels (losses.py); the perceptual distance of each picture from what is left of it, and the kernel distance
between all held-out pictures and what is left of them, in EfficientNet-Lite0's features (perceptual.py) where the extra
`perceptual` is there and pictures are large enough, else null.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.vision.augment import to_unit
from momafuse.vision.losses import WINDOW, psnr, squared_error, ssim
from momafuse.vision.perceptual import LEAST_SIDE, Lite0, kernel_distance
from momafuse.vision.pictures import PictureSet
from momafuse.vision.tokenizer import ImageTokenizer

PIXELS = 1 << 18  # that are judged at a time
TRAINED = 2000  # training pictures that are judged, at most


@dataclass(frozen=True)
class Quality:
    """Of some pictures: PSNR in dB, the mean over pictures and that of their pooled squared error; means of the others."""

    pictures: int
    psnr_mean: float
    psnr_pooled: float
    ssim: float | None  # None: pictures smaller than its window, or than the network wants them
    perceptual: float | None


@dataclass(frozen=True)
class Report:
    """`codes_used` counts over all pictures, `codes_used_train` without those held out; `entropy` of all uses in nats, and
    `perplexity`, its exponential."""

    codes: int
    codes_used: int
    codes_used_train: int
    entropy: float
    perplexity: float
    heldout: Quality
    heldout_by_kind: dict[str, Quality]
    kernel_distance: float | None  # of all held-out pictures
    train: Quality


@dataclass(frozen=True)
class _Judged:
    """Of every picture."""

    error: Tensor  # (N,) mean squared error on the scale 0..1
    ssim: Tensor | None
    perceptual: Tensor | None

    def of(self, chosen: Tensor) -> Quality:
        """(N,) bool."""
        error = self.error[chosen]
        means = [None if x is None else float(x[chosen].mean()) for x in (self.ssim, self.perceptual)]
        return Quality(len(error), float(psnr(error).mean()), float(psnr(error.mean())), *means)


def measure(tokenizer: ImageTokenizer, data: PictureSet) -> Report:
    """Encodes every picture once; decodes and judges those held out and at most `TRAINED` of the others."""
    codes = tokenizer.encode(data.pictures)
    uses = torch.bincount(codes.flatten(), minlength=tokenizer.codes)
    uses_train = torch.bincount(codes[~data.heldout].flatten(), minlength=tokenizer.codes)
    share = uses[uses > 0] / uses.sum()
    entropy = -math.fsum((share * share.log()).tolist())
    network = network_if_there() if tokenizer.image_size >= LEAST_SIDE else None
    rows = judged_rows(data.heldout)
    originals, heldout, decoded = data.pictures[rows], data.heldout[rows], tokenizer.decode(codes[rows])
    judged = _Judged(
        by_parts(squared_error, decoded, originals),
        by_parts(ssim, decoded, originals) if tokenizer.image_size >= WINDOW else None,
        None if network is None else by_parts(perceptual(network), decoded, originals),
    )
    found = [data.kinds[row] for row in rows.tolist()]
    kinds = {kind: heldout & torch.tensor([k == kind for k in found]) for kind in sorted(set(found))}
    return Report(
        codes=tokenizer.codes,
        codes_used=int((uses > 0).sum()),
        codes_used_train=int((uses_train > 0).sum()),
        entropy=entropy,
        perplexity=math.exp(entropy),
        heldout=judged.of(heldout),
        heldout_by_kind={kind: judged.of(chosen) for kind, chosen in kinds.items() if chosen.any()},
        kernel_distance=None if network is None else between(network, decoded[heldout], originals[heldout]),
        train=judged.of(~heldout),
    )


def judged_rows(heldout: Tensor) -> Tensor:
    """(N,) bool -> the numbers of all that are held out, and of some of the others, spread over them."""
    others = (~heldout).nonzero().flatten()
    chosen = heldout.clone()
    if len(others):
        chosen[others[torch.linspace(0, len(others) - 1, min(TRAINED, len(others))).round().long()]] = True
    return chosen.nonzero().flatten()


def network_if_there() -> Lite0 | None:
    try:
        return Lite0()
    except UserError:
        return None


Distance = Callable[[Tensor, Tensor], Tensor]


def perceptual(network: Lite0) -> Distance:
    """Of uint8 pictures."""
    return lambda a, b: network.distance(to_unit(a), to_unit(b))


@torch.inference_mode()
def by_parts(distance: Distance, a: Tensor, b: Tensor) -> Tensor:
    """uint8 pictures (N, 3, S, S) twice -> (N,), a few at a time."""
    return torch.cat([distance(x, y) for x, y in zip(parts(a), parts(b), strict=True)])


def parts(pictures: Tensor) -> tuple[Tensor, ...]:
    return torch.split(pictures, max(1, PIXELS // pictures.shape[-1] ** 2))


@torch.inference_mode()
def between(network: Lite0, a: Tensor, b: Tensor) -> float | None:
    """The kernel distance of uint8 pictures from what is left of each; None where there are fewer than two."""
    if len(a) < 2:
        return None
    x, y = (torch.cat([network.pooled(to_unit(part)) for part in parts(s)]) for s in (a, b))
    return kernel_distance(x, y)
