"""Documents that are there already: found by their content, and by the look of their picture, over all sources.

    exact   the same texts (blanks aside) and items, byte for byte
    near    also a document of one picture that looks like another's (at most NEAR of the 256 bits of their difference hashes
            differ), where both have the same text; and one to train on whose picture looks like a held-out one's

Of equal documents the first held-out one stays, else the first; so nothing that is held out is trained on. Marks are made when
documents are encoded, whatever else there is, and decided upon when all are there. They cost 81 bytes a document; `near` takes
time by the square of how many pictures have one text (16,000: 4 s), and by those to train on times those held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from momafuse.data.sources import Item, Raw

NEAR = 16  # bits of 256
_PAIRS = 1 << 21  # pictures compared at once
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Marks:
    """Of n documents in the source's order."""

    content: Words  # (n, 2) a hash of everything
    text: Words  # (n, 2) a hash of the texts
    look: Words  # (n, 4) the picture's difference hash
    pictured: Flags  # (n,) whether there is a picture, and one only
    held_out: Flags  # (n,)
    versions: Flags  # (n,) whether it has items, and so may have several versions

    @classmethod
    def build(cls, items: Sequence[Item], looks: Sequence[bytes | None]) -> Marks:
        """`looks`: the 32 bytes of each document's only picture, if it has one."""
        texts = [" ".join(" ".join(s for s in item.segments if isinstance(s, str)).split()) for item in items]
        contents = [_content(item, text) for item, text in zip(items, texts, strict=True)]
        return cls(
            content=_words(contents, 2),
            text=_words([_digest(text.encode("utf-8", "surrogatepass")) for text in texts], 2),
            look=_words([look or bytes(32) for look in looks], 4),
            pictured=np.array([look is not None for look in looks], np.bool_),
            held_out=np.array([item.split == "validation" for item in items], np.bool_),
            versions=np.array([any(isinstance(s, Raw) for s in item.segments) for item in items], np.bool_),
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {f"marks_{f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def load(cls, held: Any) -> Marks:
        """Of the part whose file is `held`."""
        return cls(**{f.name: held[f"marks_{f.name}"] for f in fields(cls)})

    @classmethod
    def join(cls, parts: Sequence[Marks]) -> Marks:
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def of_group(self, keep: Flags, group: int, variants: int) -> Flags:
        """Of a flag a document, those of a group of a part (data/writer.py): a version of the training documents, or
        validation."""
        if group == variants:
            return keep[self.held_out]
        return keep[~self.held_out if group == 0 else ~self.held_out & self.versions]


def kept(marks: Marks, how: Literal["exact", "near"]) -> Flags:
    """(n,) whether each document stays."""
    keep = np.zeros(len(marks.held_out), np.bool_)
    order = np.lexsort((~marks.held_out, marks.content[:, 1], marks.content[:, 0]))  # stable: the first, held-out ones before
    keep[order[_first(marks.content[order])]] = True
    if how == "near":
        _drop_looks(marks, keep)
    return keep


def _drop_looks(marks: Marks, keep: Flags) -> None:
    held = np.flatnonzero(keep & marks.pictured & marks.held_out)
    train = np.flatnonzero(keep & marks.pictured & ~marks.held_out)
    if len(held):
        step = max(1, _PAIRS // len(held))
        for first in range(0, len(train), step):
            rows = train[first : first + step]
            keep[rows[(_distances(marks.look[rows], marks.look[held]) <= NEAR).any(1)]] = False
    for side in (held, train):
        side = side[keep[side]]
        order = side[np.lexsort((side, marks.text[side, 1], marks.text[side, 0]))]
        begins = np.append(np.flatnonzero(_first(marks.text[order])), len(order))
        for low, high in zip(begins[:-1][np.diff(begins) > 1], begins[1:][np.diff(begins) > 1], strict=True):
            same = order[low:high]
            for n in range(1, len(same)):
                before = same[:n][keep[same[:n]]]
                keep[same[n]] = bool((_distances(marks.look[same[n : n + 1]], marks.look[before]) > NEAR).all())


def _distances(a: Words, b: Words) -> npt.NDArray[np.int64]:
    """(n, 4), (m, 4) -> (n, m) bits that differ."""
    bits: npt.NDArray[np.int64] = np.bitwise_count(a[:, None] ^ b[None]).sum(axis=2, dtype=np.int64)
    return bits


def _first(rows: Words) -> Flags:
    """Of sorted rows (n, 2), whether each is the first of its kind."""
    first = np.ones(len(rows), np.bool_)
    first[1:] = (rows[1:] != rows[:-1]).any(1)
    return first


def _content(item: Item, text: str) -> bytes:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    for segment in item.segments:
        if isinstance(segment, Raw):
            try:
                digest.update(hashlib.blake2b(segment.read(), digest_size=16).digest())
            except OSError:  # it will be rejected
                digest.update((segment.path or "").encode("utf-8", "surrogateescape"))
    return digest.digest()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _words(digests: Sequence[bytes], words: int) -> Words:
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, words)
