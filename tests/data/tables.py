"""Small files of the forms that `datasets` reads: webdataset tars, parquet with pictures, JSON lines."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

WORDS = "the quick brown fox jumps over a lazy dog while it rains".split()


def picture(n: int, kind: str = "JPEG") -> bytes:
    """A picture of its own look."""
    file = io.BytesIO()
    image = Image.new("RGB", (40, 32), (n * 37 % 256, n * 91 % 256, n * 53 % 256))
    image.paste((255, 255, 255), (0, 0, 4 + n % 30, 9))
    image.save(file, kind)
    return file.getvalue()


def sentence(n: int) -> str:
    return f"picture {n}: " + " ".join(WORDS[(n + k) % len(WORDS)] for k in range(n % 7 + 1))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, shards: int = 2, each: int = 12, name: str = "cc3m-train", details: bool = True) -> Path:
    """Tars as img2dataset writes them: NAME.jpg, .json and .txt, of which the JSON changes from one to the next."""
    for s in range(shards):
        members = []
        for n in range(each):
            key, number = f"{n:09d}", s * each + n  # as in sets whose names begin anew in every tar
            told: dict[str, Any] = {"caption": sentence(number), "exif": None if n < 6 else "{}", "key": key}
            told |= {"tags": ["a", "b"]} if n > 8 else {}
            members += [(f"{key}.jpg", picture(number)), (f"{key}.json", json.dumps(told).encode())] * details
            members += [(f"{key}.jpg", picture(number))] * (not details) + [(f"{key}.txt", sentence(number).encode())]
        write_tar(folder / f"{name}-{s:04d}.tar", members)
    return folder


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path
