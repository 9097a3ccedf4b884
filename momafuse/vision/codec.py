"""The codec of pictures (data/codecs.py): files that Pillow reads, their training versions, and the image tokenizer.

Version 0 is the picture as it is; odd ones are mirrored (not where the text says left or right), and all but the first are
shifted by up to 3 pixels each way, on white, by a hash of key and version: the same whatever else is in the corpus.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from momafuse.vision.losses import psnr, squared_error
from momafuse.vision.preprocess import preprocess
from momafuse.vision.tokenizer import ImageTokenizer

MAX_SHIFT = 3  # pixels
_SIDES = re.compile(r"\b(left|right|\w*clockwise)\b", re.IGNORECASE)


class PictureTokenizer(Protocol):
    """What is needed of vision.tokenizer.ImageTokenizer."""

    fingerprint: str
    codes: int
    block: int
    image_size: int
    decodes: bool

    def encode(self, pictures: Tensor) -> Tensor: ...
    def decode(self, codes: Tensor) -> Tensor: ...


class ImageCodec:
    """Items are uint8 (3, S, S)."""

    unit = "dB PSNR"
    poor = 20.0  # about where lettering and faces are gone at 64 pixels (docs/image_tokenizer.md)

    def __init__(self, tokenizer: PictureTokenizer) -> None:
        self.tokenizer = tokenizer
        self.fingerprint, self.codes, self.block = tokenizer.fingerprint, tokenizer.codes, tokenizer.block
        self.decodes = tokenizer.decodes

    @classmethod
    def load(cls, name_or_path: str, device: str = "cpu") -> ImageCodec:
        """Raises UserError for a tokenizer that is missing or damaged."""
        return cls(ImageTokenizer.load(name_or_path, device))

    def read(self, data: bytes) -> Tensor:
        return decode_picture(data, self.tokenizer.image_size)

    def vary(self, item: Tensor, key: str, variant: int, texts: Sequence[str]) -> Tensor:
        return vary(item, key, variant, mirrorable=not any(map(_SIDES.search, texts)))

    def encode(self, items: Sequence[Tensor]) -> list[npt.NDArray[np.int64]]:
        return list(self.tokenizer.encode(torch.stack(list(items))).numpy())

    def decode(self, codes: npt.NDArray[np.int64]) -> Tensor:
        return self.tokenizer.decode(torch.from_numpy(codes)[None])[0]

    def restore(self, codes: Sequence[npt.NDArray[np.int64]]) -> list[Tensor]:
        return list(self.tokenizer.decode(torch.from_numpy(np.stack(list(codes)))))

    def judge(self, items: Sequence[Tensor], decoded: Sequence[Tensor]) -> npt.NDArray[np.float64]:
        """PSNR of each picture, dB."""
        found: npt.NDArray[np.float64] = psnr(squared_error(torch.stack(list(decoded)), torch.stack(list(items)))).numpy()
        return found

    def look(self, item: Tensor) -> bytes:
        """256 bits: whether each of 16 x 17 grey cells is darker than its right neighbour."""
        grey = Image.fromarray(item.permute(1, 2, 0).numpy()).convert("L").resize((17, 16), Image.Resampling.LANCZOS)
        cells = np.asarray(grey, dtype=np.int16)
        return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes()

    def file(self, item: Tensor) -> tuple[str, bytes]:
        out = io.BytesIO()
        Image.fromarray(item.permute(1, 2, 0).numpy()).save(out, "PNG")
        return "png", out.getvalue()

    def drawn(self, items: Sequence[Tensor]) -> list[npt.NDArray[np.uint8]]:
        return [item.numpy() for item in items]


def decode_picture(data: bytes, size: int) -> Tensor:
    """-> uint8 (3, size, size). Raises ValueError with the reason where it cannot be decoded.

    What is over Pillow's limit of pixels is refused before it is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                return preprocess(image, size)
    except UnidentifiedImageError as error:
        raise ValueError("no picture format") from error
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def vary(picture: Tensor, key: str, variant: int, mirrorable: bool = True) -> Tensor:
    """Variant 0 is the picture itself; what a shift uncovers is white. uint8 (3, S, S) both."""
    if variant == 0:
        return picture
    if variant % 2 and mirrorable:
        picture = picture.flip(2)
    span = 2 * MAX_SHIFT + 1
    draw = int.from_bytes(hashlib.sha256(f"variant:{key}:{variant}".encode()).digest()[:8]) % (span * span - 1)
    draw += draw >= span * span // 2  # leaves out the shift by (0, 0)
    dy, dx = draw // span - MAX_SHIFT, draw % span - MAX_SHIFT
    size = picture.shape[-1]
    padded = torch.nn.functional.pad(picture, (MAX_SHIFT,) * 4, value=255)
    return padded[:, MAX_SHIFT - dy : MAX_SHIFT - dy + size, MAX_SHIFT - dx : MAX_SHIFT - dx + size]
