"""An image of any size and mode -> the square RGB picture that an image tokenizer reads.

Chameleon's rule (arXiv 2405.09818 and its released code): alpha on white, the shorter side to the wanted size by Lanczos,
then the centre is cut out. Scaling to [-1, 1] is the tokenizer's business.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def preprocess(image: Image.Image, size: int) -> Tensor:
    """-> uint8 (3, size, size)."""
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
