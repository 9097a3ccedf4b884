"""Renders one source picture to 64 x 64 on white, encodes it, and draws contact sheets.

The bytes depend on the versions of Pillow and libwebp, which `manifest.json` names.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

SIDE = 64
WEBP_QUALITY = 80
MAX_PIXELS = 40_000_000
INK_LUMINANCE = 235
MIN_INK_SHARE = 0.03


def render(path: Path, side: int = SIDE) -> Image.Image | None:
    """The picture fitted into `side` x `side` and centred on white (RGB), or None above 40 megapixels.

    The size is checked before anything is decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as source:
            if source.width * source.height > MAX_PIXELS:
                return None
            fitted = ImageOps.contain(source.convert("RGBA"), (side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    canvas.alpha_composite(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    return canvas.convert("RGB")


def is_near_blank(picture: Image.Image) -> bool:
    """Whether fewer than 3 % of the pixels are darker than luminance 235."""
    return float((np.asarray(picture.convert("L")) < INK_LUMINANCE).mean()) < MIN_INK_SHARE


def encode(picture: Image.Image) -> bytes:
    """WebP bytes at quality 80."""
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=WEBP_QUALITY, method=6)
    return stream.getvalue()


def contact_sheets(pictures: Sequence[tuple[bytes, str]], folder: Path, columns: int = 16, rows: int = 12) -> None:
    """Writes `sheet_00.png ...` to `folder`: all (WebP bytes, title) pairs in order, with numbers and titles."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = SIDE + 36, SIDE + 26
    for first in range(0, len(pictures), columns * rows):
        sheet = Image.new("RGB", (columns * width, rows * height), "white")
        draw = ImageDraw.Draw(sheet)
        for place, (data, title) in enumerate(pictures[first : first + columns * rows]):
            x, y = place % columns * width, place // columns * height
            with Image.open(io.BytesIO(data)) as picture:
                sheet.paste(picture, (x + 18, y))
            draw.text((x + 2, y + SIDE), str(first + place), fill="red")
            draw.text((x + 2, y + SIDE + 11), title[:16], fill="black")
        sheet.save(folder / f"sheet_{first // (columns * rows):02d}.png")
