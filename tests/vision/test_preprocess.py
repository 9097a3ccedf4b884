"""Chameleon's rule for an image of any size and mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from momafuse.vision.preprocess import preprocess


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize("size", [(64, 64), (200, 100), (63, 301), (5, 7)])
def test_any_size_and_mode_gives_a_square(mode: str, size: tuple[int, int]) -> None:
    out = preprocess(Image.new("RGB", size, (200, 30, 90)).convert(mode), 64)
    assert out.shape == (3, 64, 64)
    assert out.dtype == torch.uint8
    assert out.is_contiguous()


def test_a_picture_of_the_right_size_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(preprocess(Image.fromarray(pixels), 64).permute(1, 2, 0).numpy(), pixels)


def test_transparency_becomes_white() -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 64))
    out = preprocess(image, 64)
    assert out[:, 10, 50].tolist() == [255, 255, 255]
    assert out[:, 10, 10].tolist() == [255, 0, 0]
    half = preprocess(Image.new("RGBA", (64, 64), (0, 0, 0, 128)), 64)
    assert abs(int(half[0, 0, 0]) - 127) <= 1


def test_the_centre_is_cut_out() -> None:
    image = Image.new("RGB", (192, 64), "black")
    image.paste((255, 255, 255), (64, 0, 128, 64))
    assert int(preprocess(image, 64).min()) == 255
