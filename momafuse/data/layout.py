"""The two layouts of a corpus on disk: which files a split has, and what a manifest calls what a source holds.

    1   text and pictures: what was made first, and is made of these two to this day, byte by byte
    2   any modalities: the modality of every item, and counts of each modality before every document, are files of their own

Knows names only. What the files hold: corpus.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from momafuse.tokens.vocabulary import Vocabulary

VERSIONS = (1, 2)
FIRST = ("text", "image")  # the modalities of layout 1, whose items are pictures
FILES = {
    1: {"offsets": "offsets", "items": "images", "item_index": "image_index", "kinds": "kinds", "counts": "counts"},
    2: {n: n for n in ("offsets", "items", "item_index", "item_modality", "before", "kinds", "counts")},
}


@dataclass(frozen=True)
class SourceInfo:
    """Documents first .. first + documents - 1 of a split; tokens and items of each modality (specials are text)."""

    name: str
    first: int
    documents: int
    tokens: tuple[int, ...]
    items: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Whether it is text alone."""
        return not any(self.items)


def layout_of(vocabulary: Vocabulary) -> int:
    return 1 if vocabulary.names == FIRST else 2


def split_entry(items: int, vocabulary: Vocabulary) -> dict[str, int]:
    """What a manifest says of the items of a split."""
    return {"pictures" if layout_of(vocabulary) == 1 else "items": items}


def source_entry(info: SourceInfo, vocabulary: Vocabulary) -> dict[str, Any]:
    """As a manifest holds it."""
    entry: dict[str, Any] = {"name": info.name, "first": info.first, "documents": info.documents}
    if layout_of(vocabulary) == 1:
        (text, image), (_, pictures) = info.tokens, info.items
        return entry | {"text_tokens": text, "image_tokens": image, "pictures": pictures}
    named = {"tokens": info.tokens, "items": info.items}
    return entry | {key: dict(zip(vocabulary.names, values, strict=True)) for key, values in named.items()}


def source_info(entry: dict[str, Any], vocabulary: Vocabulary) -> SourceInfo:
    """The inverse of `source_entry`."""
    if layout_of(vocabulary) == 1:
        tokens, items = (entry["text_tokens"], entry["image_tokens"]), (0, entry["pictures"])
    else:
        tokens, items = (tuple(entry[key][name] for name in vocabulary.names) for key in ("tokens", "items"))
    return SourceInfo(entry["name"], entry["first"], entry["documents"], tokens, items)
