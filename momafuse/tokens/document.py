"""A document is a row of text and image segments; here it becomes one row of ids.

    ids = bos, segment, segment, ..., eos;   image segment = begin_image, codes, end_image;   text segment = its pieces

A caption pair (one picture, one text) comes picture first for half of the documents, decided by a hash of its key
(arXiv 2405.09818 rotates half of its pairs); a pair with a given segment (a prompt) keeps its order, since the other is
the answer to it. Spans of given ids are recorded, for losses on answers only (the same paper's fine-tuning): an image
with its frame, and `eos` after a last segment that is given; never `bos`. Does not read files, and does not cut anything
to length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from momafuse.tokens.vocabulary import Vocabulary

Kind = Literal["pair", "interleaved", "text"]


@dataclass(frozen=True)
class EncodedDocument:
    """`ids` (n,) int64; `images` (k, 2) int64: first position and number of the codes of each picture within `ids`.

    `given` (g, 2) int64: where each run of given ids begins, and where it has ended; sorted, apart, none empty.
    """

    key: str
    kind: Kind
    ids: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]
    given: npt.NDArray[np.int64]


def picture_first(key: str) -> bool:
    """True for half of all keys, whatever the order or number of documents."""
    return hashlib.sha256(f"order:{key}".encode()).digest()[0] < 128


def encode_document(
    key: str,
    segments: Sequence[tuple[Literal["text", "image"], npt.NDArray[np.int64]]],
    vocabulary: Vocabulary,
    given: Collection[int] = (),
) -> EncodedDocument:
    """Lay out one document. Text segments hold ids of the one id space, image segments codes 0..count-1.

    `given`: places in `segments` of the given ones. ValueError where a picture is none.
    """
    image = vocabulary.modality("image")
    s = vocabulary.specials
    kinds = [kind for kind, _ in segments]
    pair = sorted(kinds) == ["image", "text"]
    if pair and not given:
        segments = sorted(segments, key=lambda seg: (seg[0] == "image") != picture_first(key))
    parts: list[npt.NDArray[np.int64]] = [np.array([s.bos])]
    images: list[tuple[int, int]] = []
    ends = [1]  # of the parts
    for kind, values in segments:
        if kind == "image":
            if len(values) != image.block or values.min() < 0 or values.max() >= image.count:
                raise ValueError(f"document {key}: a picture must be {image.block} codes below {image.count}")
            images.append((ends[-1] + 1, len(values)))
            values = np.concatenate([[s.begin_image], values + image.first, [s.end_image]])
        parts.append(values)
        ends.append(ends[-1] + len(values))
    parts.append(np.array([s.eos]))
    ends.append(ends[-1] + 1)
    kind_: Kind = "pair" if pair else "interleaved" if images else "text"
    ids = np.concatenate(parts).astype(np.int64)
    return EncodedDocument(key, kind_, ids, _spans(images), _spans(_runs(ends, given)))


def _runs(ends: Sequence[int], given: Collection[int]) -> list[list[int]]:
    """Begin and end of every run of given parts; part p is `ends[p]..ends[p + 1]-1`, eos is given with the last segment."""
    runs: list[list[int]] = []
    last = len(ends) - 2
    for part in sorted({*given} | ({last} if last - 1 in given else set())):
        begin, end = ends[part], ends[part + 1]
        if runs and runs[-1][1] == begin:
            runs[-1][1] = end
        elif end > begin:
            runs.append([begin, end])
    return runs


def _spans(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(-1, 2)
