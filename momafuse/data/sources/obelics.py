"""Interleaved documents in the form that OBELICS is published in (Laurencon et al., arXiv 2306.16527): .parquet files with
the parallel lists `images` and `texts`, of which one is null wherever the other is set.

    images  [null, "a/b.jpg", null]        texts  ["Some text", null, "More text"]

The published `images` are addresses, which nothing here fetches: have them replaced by paths (from the folder of the files
on), by the files' bytes, or by {"bytes", "path"}. A document with a picture that is not there, so one with an address left,
is rejected when it is encoded. Blank texts are left out. streams.py says how files become documents; dataset.py reads the
same form through `datasets`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import Source, folder_fingerprint, register, user_folder
from momafuse.data.sources.streams import PARQUET, Segments, all_files, read_rows, row_files, unicode_text


@register("obelics")
def obelics(config: SourceConfig) -> Source:
    """Documents in the order of the files. Raises UserError where `path` holds none or other ones."""
    path, paths = user_folder(config), row_files(config, "images and texts", PARQUET)
    folder = path.parent if path.is_file() else path
    opened = read_rows(config, paths, ["images", "texts"], partial(interleaved, folder))
    return replace(opened, fingerprint=folder_fingerprint(all_files(path), folder))


def interleaved(folder: Path, images: Any, texts: Any) -> tuple[str, Segments] | None:
    """The content that the document's key is a hash of, and its segments; None where there are none. ValueError for another
    form."""
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
        raise ValueError("images and texts are no lists of one length")
    segments: Segments = []
    content: list[str] = []
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            raise ValueError(f"images[{place}], texts[{place}]: one of them must be null, and the other one set")
        if image is not None:
            picture, name = picture_of(folder, image, f"images[{place}]")
            segments.append({"text": None, "image": picture})
            content.append(f"image:{name}")
        elif str(text).strip():
            segments.append({"text": unicode_text(str(text)), "image": None})
            content.append(f"text:{text}")
    return (json.dumps(content), segments) if segments else None


def picture_of(folder: Path, image: Any, where: str) -> tuple[dict[str, Any], str]:
    """The picture, and what keys know it by: the hash of its bytes, or its path from `folder` on. ValueError for no picture."""
    if not isinstance(image, dict):
        image = {"bytes": image} if isinstance(image, bytes) else {"path": image}
    data, path = image.get("bytes"), image.get("path")
    if isinstance(data, bytes):
        return {"bytes": data, "path": None}, hashlib.sha256(data).hexdigest()
    if not isinstance(path, str):
        raise ValueError(f'{where}: give a path, bytes, or {{"bytes", "path"}}')
    if "://" not in path:  # else an address, or a member of an archive
        path = str(folder / path)
    return {"bytes": None, "path": path}, path.replace(f"{folder}/", "")
