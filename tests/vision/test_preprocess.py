"""Chameleon's rule for an image of any size and mode."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from momafuse.vision.codec import decode_picture
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


def file_of(image: Image.Image, kind: str, **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def test_a_picture_is_turned_as_its_camera_says() -> None:
    image = Image.new("RGB", (64, 64), "white")
    image.paste((200, 0, 0), (0, 0, 64, 8))  # above
    for turned, at in ((1, (4, 32)), (3, (60, 32)), (6, (32, 60)), (8, (32, 4))):
        exif = Image.Exif()
        exif[0x0112] = turned
        found = decode_picture(file_of(image, "PNG", exif=exif), 64)
        assert found[:, *at].tolist() == [200, 0, 0], turned


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_as_good_as_none() -> None:
    """Bytes of a real JPEG's EXIF changed at random: it is read, or its pixels are refused; nothing else is raised."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "a camera", 72.5
    whole = bytearray(file_of(Image.new("RGB", (64, 64), (9, 99, 200)), "JPEG", exif=exif))
    begin, draws, read = whole.index(b"Exif"), np.random.default_rng(0), 0
    for _ in range(400):
        data = bytearray(whole)
        for at in draws.integers(begin + 6, begin + 100, 3):
            data[at] = draws.integers(256)
        try:
            read += decode_picture(bytes(data), 64).shape == (3, 64, 64)
        except ValueError:
            continue
    assert read > 300


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_sixteen_bits_keeps_its_shades(kind: str) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 1024 + 77, (64, 1))
    found = decode_picture(file_of(Image.fromarray(ramp), kind), 64)
    assert found[0, 5].tolist() == [4 * n for n in range(64)]
    assert torch.equal(found[0], found[2])


def test_other_forms_are_read_or_refused_with_the_reason() -> None:
    red = Image.new("RGB", (64, 64), (250, 0, 0))
    assert int(decode_picture(file_of(red.convert("CMYK"), "JPEG", quality=95), 64)[0].min()) > 230
    frames = [red, Image.new("RGB", (64, 64), (0, 0, 250))]
    moving = file_of(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode_picture(moving, 64)[:, 9, 9].tolist() == [250, 0, 0], "the first frame"
    whole = file_of(red, "JPEG")
    deep = Image.fromarray(np.full((64, 64), 1e6, np.float32))
    for data, reason in (
        (b"", "no picture format"),
        (b"GIF89a", "."),
        (whole[: len(whole) // 2], "(?i)truncated"),
        (file_of(deep, "TIFF"), "mode F: .* scale is unknown"),
        (file_of(Image.fromarray(np.full((64, 64), 1 << 20, np.int32)), "TIFF"), "mode I: .* 16 bits"),
        (file_of(Image.new("1", (20000, 10000)), "PNG"), "pixels"),
    ):
        with pytest.raises(ValueError, match=reason):
            decode_picture(data, 64)
