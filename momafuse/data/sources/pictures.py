"""What can be told of a picture without decoding it: by its name whether it is one, by the head of its file how large it is."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path, PurePosixPath


@cache
def picture_suffixes() -> frozenset[str]:
    from PIL import Image

    return frozenset(Image.registered_extensions()) - {".pdf", ".h5", ".hdf"}


def is_picture(path: Path | PurePosixPath) -> bool:
    return path.suffix.lower() in picture_suffixes()


def picture_size(file: Path | bytes) -> tuple[int, int] | None:
    """Width and height as stored; None for what is no picture. Reads the head of the file only."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
