"""A document is a row of segments, each of one modality; here it becomes one row of ids.

    ids = bos, segment, segment, ..., eos;   segment = begin, codes, end of its modality;   text segment = its pieces

A pair (two segments, of two modalities) comes in the order of their numbers for half of the documents and in the other for the
rest, decided by a hash of its key (arXiv 2405.09818 rotates half of its pairs); a pair with a given segment (a prompt) keeps
its order, since the other is the answer to it. Spans of given ids are recorded, for losses on answers only (the same paper's
fine-tuning): an item with its frame, and `eos` after a last segment that is given; never `bos`. Does not read files, and does
not cut anything to length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from momafuse.tokens.modality import Modality
from momafuse.tokens.vocabulary import TEXT, Vocabulary

Kind = Literal["pair", "interleaved", "text"]
_NO_ITEMS, _NO_SPANS = np.zeros((0, 3), np.int64), np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class EncodedDocument:
    """`ids` (n,) int64; `items` (k, 3) int64: first position and number of the codes of each item within `ids`, and the number
    of its modality; text has none.

    `given` (g, 2) int64: where each run of given ids begins, and where it has ended; sorted, apart, none empty.
    """

    key: str
    kind: Kind
    ids: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    given: npt.NDArray[np.int64]


def turned(key: str) -> bool:
    """Whether the pair of this key puts the modality with the larger number first: true for half of all keys, whatever the
    order or number of documents."""
    return hashlib.sha256(f"order:{key}".encode()).digest()[0] < 128


def encode_document(
    key: str,
    segments: Sequence[tuple[str, npt.NDArray[np.int64]]],
    vocabulary: Vocabulary,
    given: Collection[int] = (),
) -> EncodedDocument:
    """Lay out one document of segments (modality, values): text holds ids of the one id space, others codes 0..count-1.

    `given`: places in `segments` of the given ones. ValueError where codes are no item of their modality.
    """
    s = vocabulary.specials
    if not given and all(name == TEXT for name, _ in segments):  # most documents of most corpora
        ids = np.concatenate([[s.bos], *(values for _, values in segments), [s.eos]])
        return EncodedDocument(key, "text", ids.astype(np.int64, copy=False), _NO_ITEMS, _NO_SPANS)
    names = vocabulary.names
    pair = len({name for name, _ in segments}) == len(segments) == 2
    if pair and not given:
        segments = sorted(segments, key=lambda segment: names.index(segment[0]), reverse=turned(key))
    parts: list[npt.NDArray[np.int64]] = [np.array([s.bos])]
    items: list[tuple[int, int, int]] = []
    ends = [1]  # of the parts
    for name, values in segments:
        if name != TEXT:
            m = vocabulary.modality(name)
            _check_item(key, m, values)
            begin, end = m.frame[:1], m.frame[1:]
            items.append((ends[-1] + len(begin), len(values), names.index(name)))
            values = np.concatenate([begin, values + m.first, end])
        parts.append(values)
        ends.append(ends[-1] + len(values))
    parts.append(np.array([s.eos]))
    ends.append(ends[-1] + 1)
    kind: Kind = "pair" if pair else "interleaved" if items else "text"
    ids = np.concatenate(parts).astype(np.int64)
    return EncodedDocument(key, kind, ids, np.array(items, np.int64).reshape(-1, 3), _spans(_runs(ends, given)))


def _check_item(key: str, m: Modality, values: npt.NDArray[np.int64]) -> None:
    known = len(values) == m.block if m.block else len(values) > 0
    if not known or values.min() < 0 or values.max() >= m.count:
        length = m.block or "one or more"
        raise ValueError(f"document {key}: an item of {m.name} must be {length} codes below {m.count}")


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
