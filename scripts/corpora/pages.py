"""Manuals in HTML out of packages: pages with pictures as they are, all others as texts.

What a page says, and which of its pictures count, is the reader's judgement (momafuse/data/sources/html_pages.py). Pictures
are kept in their own format and under their own names, so that the pages find them, the shorter side at most 128 pixels.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from momafuse.data.progress import Progress
from momafuse.data.sources.html_pages import SUFFIXES, segments_of

SIDE = 128
QUALITY = 90


def write(root: Path, pages: Path, progress: Progress, *, skip: str = "(?!)", pictures_skipped: str = "(?!)") -> Iterator[str]:
    """Writes the pages of `root` that have pictures into `pages`; gives the texts of the others.

    `skip`: pages whose path this matches are lists of names, `pictures_skipped`: as file names match, drawn by a program.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no {root.name}")
    root = root.resolve()
    files = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    progress.source(pages.name, len(files), 0)
    for file in files:
        progress.advance(1)
        place = file.relative_to(root)
        segments = [] if re.search(skip, place.as_posix()) else segments_of(root, file)
        pictures = {Path(segment["image"]["path"]) for segment in segments if segment["image"] is not None}
        pictures = {picture for picture in pictures if not re.match(pictures_skipped, picture.name)}
        if not pictures:
            if text := "\n\n".join(segment["text"] for segment in segments if segment["text"] is not None):
                yield text
            continue
        (pages / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, pages / place)
        for picture in pictures:
            shrink(picture, pages / picture.relative_to(root))


def shrink(picture: Path, target: Path) -> None:
    """A copy whose shorter side is at most SIDE, on white; the file itself where it is smaller, or cannot be read."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Image.open(picture) as image:
            scale = SIDE / min(image.size)
            if scale >= 1:
                raise ValueError
            small = image.convert("RGBA").resize(_scaled(image.size, scale), Image.Resampling.LANCZOS)
            options: dict[str, Any] = {"quality": QUALITY} if image.format == "JPEG" else {}
            _on_white(small).save(target, image.format, **options)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        shutil.copyfile(picture, target)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(SIDE, round(size[0] * scale)), max(SIDE, round(size[1] * scale))


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return white.convert("RGB")
