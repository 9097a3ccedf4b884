"""A document is a row of text and image segments; here it becomes one row of ids.

    ids = bos, segment, segment, ..., eos;   image segment = begin_image, codes, end_image;   text segment = its pieces

A caption pair (one picture, one text) comes picture first for half of the documents, decided by a hash of its key
(arXiv 2405.09818 rotates half of its pairs). Does not read files, and does not cut anything to length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from momafuse.tokens.vocabulary import Vocabulary

Kind = Literal["pair", "interleaved", "text"]


@dataclass(frozen=True)
class EncodedDocument:
    """`ids` (n,) int64; `images` (k, 2) int64: first position and number of the codes of each picture within `ids`."""

    key: str
    kind: Kind
    ids: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]


def picture_first(key: str) -> bool:
    """True for half of all keys, whatever the order or number of documents."""
    return hashlib.sha256(f"order:{key}".encode()).digest()[0] < 128


def encode_document(
    key: str, segments: Sequence[tuple[Literal["text", "image"], npt.NDArray[np.int64]]], vocabulary: Vocabulary
) -> EncodedDocument:
    """Lay out one document. Text segments hold ids of the one id space, image segments codes 0..count-1."""
    image = vocabulary.modality("image")
    s = vocabulary.specials
    kinds = [kind for kind, _ in segments]
    pair = sorted(kinds) == ["image", "text"]
    if pair:
        segments = sorted(segments, key=lambda seg: (seg[0] == "image") != picture_first(key))
    parts: list[npt.NDArray[np.int64]] = [np.array([s.bos])]
    images: list[tuple[int, int]] = []
    length = 1
    for kind, values in segments:
        if kind == "image":
            if len(values) != image.block or values.min() < 0 or values.max() >= image.count:
                raise ValueError(f"document {key}: a picture must be {image.block} codes below {image.count}")
            images.append((length + 1, len(values)))
            values = np.concatenate([[s.begin_image], values + image.first, [s.end_image]])
        parts.append(values)
        length += len(values)
    parts.append(np.array([s.eos]))
    kind_: Kind = "pair" if pair else "interleaved" if images else "text"
    return EncodedDocument(key, kind_, np.concatenate(parts).astype(np.int64), np.array(images, dtype=np.int64).reshape(-1, 2))
