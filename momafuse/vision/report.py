"""What a finished tokenizer is worth, by its stored weights: codes used over all pictures, PSNR on the held-out ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from momafuse.vision.losses import psnr, squared_error
from momafuse.vision.pictures import PictureSet
from momafuse.vision.tokenizer import ImageTokenizer


@dataclass(frozen=True)
class Quality:
    """PSNR in dB of some pictures: the mean over pictures, and that of their pooled squared error."""

    pictures: int
    psnr_mean: float
    psnr_pooled: float


@dataclass(frozen=True)
class Report:
    """`codes_used` counts over all pictures, `codes_used_train` without those held out; `entropy` of all uses in nats."""

    codes: int
    codes_used: int
    codes_used_train: int
    entropy: float
    heldout: Quality
    heldout_by_kind: dict[str, Quality]
    train: Quality


def quality(error: Tensor) -> Quality:
    """(N,) mean squared errors of pictures on the scale 0..1."""
    return Quality(len(error), float(psnr(error).mean()), float(psnr(error.mean())))


def measure(tokenizer: ImageTokenizer, data: PictureSet) -> Report:
    """Encodes and decodes every picture once."""
    codes = tokenizer.encode(data.pictures)
    error = squared_error(tokenizer.decode(codes), data.pictures)
    uses = torch.bincount(codes.flatten(), minlength=tokenizer.codes)
    uses_train = torch.bincount(codes[~data.heldout].flatten(), minlength=tokenizer.codes)
    share = uses[uses > 0] / uses.sum()
    heldout = {kind: error[data.heldout & torch.tensor([k == kind for k in data.kinds])] for kind in sorted(set(data.kinds))}
    return Report(
        codes=tokenizer.codes,
        codes_used=int((uses > 0).sum()),
        codes_used_train=int((uses_train > 0).sum()),
        entropy=-math.fsum((share * share.log()).tolist()),
        heldout=quality(error[data.heldout]),
        heldout_by_kind={kind: quality(part) for kind, part in heldout.items() if len(part)},
        train=quality(error[~data.heldout]),
    )
