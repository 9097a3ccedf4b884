"""Which documents are held out: by a hash of a key, whatever else a source holds, so that another file moves no document.

A long text is not held out whole: of every LONG one, stretches are, as many characters as the share says and never more, one in
each of as many equal parts of it, at a place that a hash of its key picks; what lies between them is trained on. Something of a
source's first document is always held out, so that small sources can be evaluated on: all of it, or of a text that is more than
the share of the whole source (or than STRETCH) only that much.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Literal

SplitName = Literal["train", "validation"]
SHARE = 0.02  # that is held out where a source does not say
LONG = 1 << 16  # characters
STRETCH = 1 << 13  # characters that a held-out stretch has at most
LEAST = 1 << 11  # of a first document, however small the source


def held_out(key: str, share: float = SHARE) -> bool:
    """True for that share of all keys, whatever else the source holds."""
    return _draw(f"split:{key}") < share


def split_of(key: str, number: int, share: float = SHARE) -> SplitName:
    """The split of a user's document: by its key, and the source's first one (`number` 0) is always held out, unless the share
    is 0."""
    return "validation" if (number == 0 and share) or held_out(key, share) else "train"


def split_text(
    text: str, key: str, number: int, share: float = SHARE, total: int | None = None
) -> Iterator[tuple[str, SplitName, str]]:
    """Key, split and text of what a document is divided into: itself, or the stretches of a long one in order. `total`:
    characters of the whole source, about, where that is known."""
    wanted, most = share * len(text), LONG
    if number == 0 and len(text) <= LONG:
        wanted = most = STRETCH if total is None else min(STRETCH, max(LEAST, int(share * total)))
    if not share or len(text) <= most:
        yield key, split_of(key, number, share), text
        return
    at = 0
    for begin, end in _stretches(text, key, min(wanted, len(text) / 2)):
        if text[at:begin].strip():
            yield f"{key}:{at}", "train", text[at:begin]
        yield f"{key}:{begin}", "validation", text[begin:end]
        at = end
    if text[at:].strip():
        yield f"{key}:{at}", "train", text[at:]


def _stretches(text: str, key: str, wanted: float) -> Iterator[tuple[int, int]]:
    """Begin and end of stretches with `wanted` characters in all."""
    count = max(1, math.ceil(wanted / STRETCH))
    part = len(text) / count
    size = int(wanted / count)
    for n in range(count):
        low = int(n * part) + int(_draw(f"stretch:{key}:{n}") * (part - size))
        begin, end = _inward(text, low, low + size)
        if text[begin:end].strip():
            yield begin, end


def _inward(text: str, begin: int, end: int) -> tuple[int, int]:
    """The bounds moved to the beginning of a line, or else of a word, within a quarter of the stretch, where there is one."""
    near = (end - begin) // 4
    first = next((at for mark in "\n " if (at := text.find(mark, begin, begin + near)) >= 0), begin - 1)
    last = next((at for mark in "\n " if (at := text.rfind(mark, end - near, end)) >= 0), end - 1)
    return first + 1, last + 1


def _draw(words: str) -> float:
    """In [0, 1)."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) / 2**64
