"""Small data on disk, a tokenizer that is no network, and the configs to make corpora of them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from momafuse.config.schema import Config, DataConfig, SourceConfig
from momafuse.data.encoding import Encoder
from momafuse.tokens.text import TextTokenizer
from momafuse.vision.autoencoder import Autoencoder
from momafuse.vision.codec import ImageCodec
from momafuse.vision.config import Architecture
from momafuse.vision.tokenizer import save_tokenizer
from momafuse.vq.codes import CodeTable

TEXT = "starter_bpe_v1"


class PixelTokenizer:
    """Codes are mean colours of a 4 x 4 grid: what an image tokenizer promises, without weights."""

    fingerprint = "0" * 64
    codes = 256
    block = 16
    image_size = 32
    decodes = True

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def encode(self, pictures: Tensor) -> Tensor:
        assert pictures.dtype == torch.uint8
        assert pictures.shape[1:] == (3, 32, 32)
        return pictures.float().mean(1).unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4)).flatten(1).long()


def encoder() -> Encoder:
    return Encoder(TextTokenizer.load(TEXT), {"image": ImageCodec(PixelTokenizer())})


def source(reader: str, path: Path | None, variants: int = 1) -> SourceConfig:
    return SourceConfig(reader=reader, path=None if path is None else str(path), weight=1.0, variants=variants)


def config(
    sources: dict[str, SourceConfig], path: Path | None = None, rejects: float = 0.01, duplicates: str = "keep"
) -> Config:
    """Only what the data room reads of a Config."""
    data = DataConfig("test", None if path is None else str(path), sources, [], 64, 0.5, {}, 16, rejects, duplicates)  # type: ignore[arg-type]
    return cast(Config, SimpleNamespace(data=data, plugins=[], tokenizer={"text": TEXT, "image": "starter_vq_v1"}))


def write_pictures(folder: Path, count: int, broken: tuple[int, ...] = ()) -> dict[str, str]:
    """PNGs of changing size, colour and mode with metadata.csv; returns the captions by key. `broken` ones are cut off."""
    draw = random.Random(count)
    captions = {}
    for n in range(count):
        path = folder / ("deep" if n % 3 == 0 else ".") / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (draw.randrange(20, 60), draw.randrange(20, 60))
        colour = tuple(draw.randrange(256) for _ in range(4))
        picture = Image.new("RGBA", size, colour)
        picture.paste((0, 0, 0, 255), (0, 0, size[0] // 2, size[1] // 3))
        picture.convert(("RGBA", "RGB", "L", "P")[n % 4]).save(path)
        if n in broken:
            path.write_bytes(path.read_bytes()[:-40])
        captions[path.relative_to(folder).as_posix()] = f"picture {n}: on the {'left' if n % 5 == 0 else 'top'}"
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *captions.items()])
    return captions


def write_texts(path: Path, count: int) -> list[str]:
    """A .jsonl file of documents of changing length."""
    draw = random.Random(count)
    texts = [
        f"document {n}: " + " ".join(draw.choices("a bird sees the tall tree\n\t".split(" "), k=n % 40)) for n in range(count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return texts


def write_conversations(folder: Path, count: int, pictures: bool = True) -> Path:
    """A folder of `chats.jsonl` and its pictures: turns of every form, the first conversation with a prompt and an answer."""
    draw = random.Random(count)
    rows = []
    for n in range(count):
        picture = {"type": "image", "image": f"deep/{n}.png"}
        if pictures:
            (folder / "deep").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 24), (n * 37 % 256, n * 91 % 256, 90)).save(folder / "deep" / f"{n}.png")
        asked = [picture, {"type": "text", "text": f"question {n}"}] if pictures else f"question {n}"
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"answer {n}\nin two lines"}]
        if n % 3 == 1:
            turns.insert(0, {"role": "system", "content": "be short"})
            turns += [{"role": "user", "content": "again?"}, {"role": "assistant", "content": "once " * draw.randrange(9)}]
        if n % 4 == 2 and pictures:
            turns = [{"role": "user", "content": f"draw {n}"}, {"role": "assistant", "content": [picture]}]
        if n % 5 == 4:
            turns.append({"role": "user", "content": "thanks"})
        rows.append({"messages": turns, "n": n})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def write_image_tokenizer(path: Path, seed: int = 0) -> str:
    """Untrained VQ weights of 4 codes a picture, once; returns the path."""
    if not path.exists():  # safetensors does not write its metadata in one order
        arch = Architecture(16, 32, 4, (8, 16), (1, 1), (16, 8, 8), (1, 1, 1))
        torch.manual_seed(seed)
        save_tokenizer(path, arch, Autoencoder(arch), CodeTable(torch.randn(32, 4), "sphere"))
    return str(path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
