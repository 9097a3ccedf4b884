"""The image tokenizer that the rest of momafuse uses: pictures <-> codes, frozen, inference only.

Any trained tokenizer loads by its path (vq/weights.py), one without a decoder too, which encodes alone. All products are fp32,
in chunks of a fixed number of pictures filled up with white, so that a picture has the same codes whatever batch it comes in.
Another number of threads or another CPU may turn a near-tie (5 codes in 10,000 between one thread and two).
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from momafuse.errors import UserError
from momafuse.vision.architectures import AnyArchitecture, architecture, build
from momafuse.vision.augment import to_bytes, to_unit
from momafuse.vision.config import VQGANArchitecture
from momafuse.vq.autoencoder import VQAutoencoder
from momafuse.vq.codes import CodeTable
from momafuse.vq.weights import Kind, load_weights, save_weights

KIND = Kind("momafuse-vq-1", "tokenizer.image", "an image tokenizer", shipped="starter_vq_v2", training="starter_vq")
SIZED = re.compile(r".+@\d+")
CHUNK = 8  # pictures computed at a time
PIXELS = 1 << 19  # at most, by a VQGAN, whose first level is as large as the picture: 2 of 512 a side


class ImageTokenizer:
    """Codes 0..codes-1, `block` of them per picture of `image_size` pixels a side; `fingerprint`: the file's sha256. `decodes`:
    whether its file has a decoder."""

    def __init__(self, name: str, arch: AnyArchitecture, model: VQAutoencoder, codes: CodeTable, fingerprint: str) -> None:
        self.name = name
        self.codes = arch.codes
        self.image_size = arch.image_size
        self.block = (arch.image_size // arch.reduction) ** 2
        self._tiles = arch.image_size // tile_of(arch)  # a side
        self.fingerprint = fingerprint
        self.decodes = model.decodes
        self._codes = codes
        self._chunk, self._format = CHUNK, torch.channels_last
        if isinstance(arch, VQGANArchitecture):
            # A CPU's group norm in channels_last takes E[x^2] - E[x]^2: on flat pictures a hundred times the error of fp32.
            self._chunk, self._format = max(1, min(CHUNK, PIXELS // arch.image_size**2)), torch.contiguous_format
        self._model = model.eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=self._format)

    @classmethod
    def load(cls, name_or_path: str, device: str = "cpu") -> ImageTokenizer:
        """A packaged name ("starter_vq_v2") or the path of a weights file; UserError if missing or damaged. With `@128` behind
        it, for pictures of 128 pixels a side: convolutions take any; a decoder that attends within windows knows pictures of
        one window alone, so these are computed window by window."""
        name, _, side = name_or_path.rpartition("@") if SIZED.fullmatch(name_or_path) else (name_or_path, "", "")

        def sized(**fields: object) -> AnyArchitecture:
            return architecture(**fields | ({"image_size": int(side)} if side else {}))

        arch, model, codes, fingerprint = load_weights(name, KIND, sized, build, device, partial(build, decodes=False))
        return cls(Path(name).stem, arch, model, codes, fingerprint + (f"@{side}" if side else ""))

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 (N, 3, image_size, image_size) -> int64 (N, block) on the CPU, raster order, 0..codes-1."""
        size = self.image_size
        if pictures.dtype != torch.uint8 or tuple(pictures.shape[1:]) != (3, size, size):
            raise ValueError(f"pictures are {pictures.dtype} {tuple(pictures.shape)}; need uint8 (N, 3, {size}, {size})")
        out = torch.empty(len(pictures), self.block, dtype=torch.int64)
        for start in range(0, len(pictures), self._chunk):
            part = _filled(pictures[start : start + self._chunk], self._chunk, 255).to(self._codes.device)
            unit = cut(to_unit(part), self._tiles).contiguous(memory_format=self._format)
            index = self._codes.nearest(self._model.encode(unit).flatten(0, 1))
            side = math.isqrt(index.numel() // len(unit))
            index = joined(index.view(len(unit), 1, side, side), self._tiles).view(len(part), self.block)
            out[start : start + self._chunk] = index[: len(pictures) - start].cpu()
        return out

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """int64 (N, block), 0..codes-1 -> uint8 (N, 3, image_size, image_size) on the CPU. UserError without a decoder."""
        if not self.decodes:
            raise UserError(
                f"tokenizer.image={self.name}: has no decoder, and only encodes; import again with a file that has it: "
                "python -m momafuse.import_ .. image_tokenizer=FILE"
            )
        if codes.ndim != 2 or codes.shape[1] != self.block or (codes.numel() and not _within(codes, self.codes)):
            raise ValueError(f"codes are {tuple(codes.shape)}; need (N, {self.block}) with values 0..{self.codes - 1}")
        out = torch.empty(len(codes), 3, self.image_size, self.image_size, dtype=torch.uint8)
        for start in range(0, len(codes), self._chunk):
            part = _filled(codes[start : start + self._chunk], self._chunk, 0).to(self._codes.device)
            side = math.isqrt(self.block)
            tiles = cut(part.view(len(part), 1, side, side), self._tiles).flatten(1)
            pictures = joined(to_bytes(self._model.decode(self._codes[tiles])), self._tiles)
            out[start : start + self._chunk] = pictures[: len(codes) - start].cpu()
        return out


def tile_of(arch: AnyArchitecture) -> int:
    """Pixels a side that are computed together."""
    window: int = getattr(arch, "decoder_window", 0) * arch.reduction
    return window if window and arch.image_size % window == 0 else arch.image_size


def cut(x: Tensor, tiles: int) -> Tensor:
    """(N, C, H, W) -> (N tiles^2, C, H / tiles, W / tiles), the tiles of a picture in raster order."""
    n, c, h, w = x.shape
    parts = x.view(n, c, tiles, h // tiles, tiles, w // tiles).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(n * tiles**2, c, h // tiles, w // tiles)


def joined(x: Tensor, tiles: int) -> Tensor:
    """What `cut` cut."""
    n, c, h, w = len(x) // tiles**2, *x.shape[1:]
    return x.view(n, tiles, tiles, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(n, c, tiles * h, tiles * w)


def save_tokenizer(path: Path, arch: AnyArchitecture, model: VQAutoencoder, codes: CodeTable) -> None:
    """Writes the weights file (fp16), aside and then renamed."""
    save_weights(path, KIND, arch, model, codes)


def _filled(rows: Tensor, count: int, value: int) -> Tensor:
    """(n, ...) -> (count, ...), the missing rows `value`."""
    missing = rows.new_full((count - len(rows), *rows.shape[1:]), value)
    return torch.cat([rows, missing])


def _within(codes: Tensor, count: int) -> bool:
    return int(codes.min()) >= 0 and int(codes.max()) < count
