"""The pictures of the starter pack as tensors, with kind and split: what the shipped tokenizer learns from and is judged on."""

from __future__ import annotations

import io
import json
import lzma
import zipfile
from dataclasses import dataclass
from importlib.resources import files

import torch
from PIL import Image
from torch import Tensor

from momafuse.vision.preprocess import preprocess

PACK = "starter-1"


@dataclass(frozen=True)
class PictureSet:
    """uint8 `pictures` (N, 3, S, S), and for each its title, kind (`emoji`, `clip_art`; of a user's, the folder) and split."""

    pictures: Tensor
    titles: list[str]
    kinds: list[str]
    heldout: Tensor  # (N,) bool


def load_starter_pictures(size: int) -> PictureSet:
    """Every picture of the embedded pack, `size` pixels a side."""
    folder = files("momafuse") / "assets" / PACK
    lines = lzma.decompress((folder / "captions.jsonl.xz").read_bytes()).decode("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    with zipfile.ZipFile(io.BytesIO((folder / "pictures.zip").read_bytes())) as archive:
        images = [Image.open(io.BytesIO(archive.read(f"{entry['number']:05d}.webp"))) for entry in entries]
        pictures = torch.stack([preprocess(image, size) for image in images])
    return PictureSet(
        pictures=pictures,
        titles=[entry["title"] for entry in entries],
        kinds=[entry["kind"] for entry in entries],
        heldout=torch.tensor([entry["split"] == "validation" for entry in entries]),
    )
