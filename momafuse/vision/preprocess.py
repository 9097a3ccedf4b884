"""An image of any size and mode -> the square RGB picture that an image tokenizer reads.

Chameleon's rule (arXiv 2405.09818 and its released code): alpha on white, the shorter side to the wanted size by Lanczos,
then the centre is cut out. Before that a picture is turned as its camera says (EXIF), and 16 bits of grey become 8. Of an
animation the first frame is taken. Scaling to [-1, 1] is the tokenizer's business.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DEEP = 1 << 16  # values of a picture of 16 bits
ORIENTATION = 0x0112  # EXIF's tag; what it says -> what undoes it
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def preprocess(image: Image.Image, size: int) -> Tensor:
    """-> uint8 (3, size, size). Raises ValueError for a mode whose scale or colours are unknown."""
    image = _eight_bits(_turned(image))
    if image.mode != "RGB":
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, (255, 255, 255))
        image.paste(rgba, mask=rgba.getchannel("A"))
    width, height = image.size
    scale = size / min(width, height)
    if scale != 1:
        image = image.resize((max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    cut = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(cut, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def _turned(image: Image.Image) -> Image.Image:
    """As the camera was held. Damaged EXIF, of which Pillow raises almost anything, is as good as none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
        except Exception:
            turn = None
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its upper eight: Pillow's own conversion clips it, so that nearly all of it would be white."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) >= DEEP:
        raise ValueError(f"mode {image.mode}: numbers beyond 16 bits, whose scale is unknown")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))
