"""What the shipped weights must hold: at least 25 dB on held-out pictures and 90 % of the codes used over the pack."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from momafuse.vision.losses import psnr, squared_error
from momafuse.vision.pictures import PictureSet, load_starter_pictures
from momafuse.vision.tokenizer import ImageTokenizer

NAME = "starter_vq_v2"


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    return ImageTokenizer.load(NAME)


@pytest.fixture(scope="module")
def data(tokenizer: ImageTokenizer) -> PictureSet:
    return load_starter_pictures(tokenizer.image_size)


@pytest.fixture(scope="module")
def codes(tokenizer: ImageTokenizer, data: PictureSet) -> Tensor:
    return tokenizer.encode(data.pictures)


def test_form(tokenizer: ImageTokenizer) -> None:
    assert (tokenizer.codes, tokenizer.image_size, tokenizer.block) == (8192, 64, 64)


def test_reconstructions_of_heldout_pictures(tokenizer: ImageTokenizer, data: PictureSet, codes: Tensor) -> None:
    heldout = data.heldout
    assert int(heldout.sum()) > 90
    error = squared_error(tokenizer.decode(codes[heldout]), data.pictures[heldout])
    assert float(psnr(error).mean()) >= 25


def test_codes_are_used(tokenizer: ImageTokenizer, codes: Tensor) -> None:
    assert len(codes.unique()) >= 0.9 * tokenizer.codes


def test_codes_do_not_depend_on_the_batch(tokenizer: ImageTokenizer, data: PictureSet, codes: Tensor) -> None:
    rows = data.heldout.nonzero().flatten()[:19]
    assert torch.equal(codes[rows], torch.cat([tokenizer.encode(data.pictures[row][None]) for row in rows]))


def test_codes_stand_in_raster_order(tokenizer: ImageTokenizer) -> None:
    """A dark block at row 1, column 6 of the grid changes that code and its neighbours, no code far away."""
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    block = white.clone()
    block[:, :, 8:16, 48:56] = 20
    changed = (tokenizer.encode(white) != tokenizer.encode(block)).view(8, 8)
    assert changed[1, 6]
    assert not changed[5:].any()
    assert not changed[:, :2].any()
    decoded = tokenizer.decode(tokenizer.encode(block)).float().mean(dim=1)[0]
    assert decoded[9:15, 49:55].mean() < 100
    assert decoded[40:, :24].mean() > 240


def test_larger_pictures_are_computed_window_by_window(data: PictureSet) -> None:
    """Its decoder attends within 64 pixels, and knows nothing of what lies beyond."""
    four = data.pictures[data.heldout][:4]
    whole = torch.cat([torch.cat([four[0], four[1]], dim=2), torch.cat([four[2], four[3]], dim=2)], dim=1)[None]
    small, large = ImageTokenizer.load(NAME), ImageTokenizer.load(f"{NAME}@128")
    codes = large.encode(whole)
    grid = codes.view(2, 8, 2, 8).transpose(1, 2).reshape(4, 64)
    assert torch.equal(grid, small.encode(four))
    decoded = large.decode(codes)[0].view(3, 2, 64, 2, 64).permute(1, 3, 0, 2, 4).reshape(4, 3, 64, 64)
    moved = (decoded.int() - small.decode(grid).int()).abs()
    assert moved.max() <= 1  # where a value lies between two, sums of another order may round it to the other
    assert moved.count_nonzero() < 10
