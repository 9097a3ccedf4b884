"""What the shipped weights must hold: at least 25 dB on held-out pictures and 90 % of the codes used over the pack."""

from __future__ import annotations

import pytest
import torch

from momafuse.vision.pictures import PictureSet, load_starter_pictures
from momafuse.vision.report import Report, measure
from momafuse.vision.tokenizer import ImageTokenizer

NAME = "starter_vq_v1"


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    return ImageTokenizer.load(NAME)


@pytest.fixture(scope="module")
def data(tokenizer: ImageTokenizer) -> PictureSet:
    return load_starter_pictures(tokenizer.image_size)


@pytest.fixture(scope="module")
def report(tokenizer: ImageTokenizer, data: PictureSet) -> Report:
    return measure(tokenizer, data)


def test_form(tokenizer: ImageTokenizer) -> None:
    assert (tokenizer.codes, tokenizer.image_size, tokenizer.block) == (8192, 64, 64)


def test_reconstructions_of_heldout_pictures(report: Report) -> None:
    assert report.heldout.pictures > 90
    assert report.heldout.psnr_mean >= 25


def test_codes_are_used(report: Report) -> None:
    assert report.codes_used >= 0.9 * report.codes


def test_codes_do_not_depend_on_the_batch(tokenizer: ImageTokenizer, data: PictureSet) -> None:
    pictures = data.pictures[data.heldout][:19]
    assert torch.equal(tokenizer.encode(pictures), torch.cat([tokenizer.encode(p[None]) for p in pictures]))


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
