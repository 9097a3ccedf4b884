"""What of a source is left out on purpose: by the size and shape of its pictures and the length of its text.

Nothing here counts as unusable. Pictures are measured by the head of their file, before they are decoded; one that has no
readable head is left to the codec, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from momafuse.data.sources import Item, Raw
from momafuse.data.sources.pictures import picture_size


def unwanted(item: Item, filters: Mapping[str, int | float]) -> str | None:
    """The name of the first filter that leaves the document out."""
    least_text = filters.get("least_text", 0)
    if least_text and sum(len(s.strip()) for s in item.segments if isinstance(s, str)) < least_text:
        return "least_text"
    if "least_side" not in filters and "most_aspect" not in filters:
        return None
    for segment in item.segments:
        if isinstance(segment, Raw) and segment.modality == "image" and (size := _size(segment)) is not None:
            if min(size) < filters.get("least_side", 0):
                return "least_side"
            if max(size) > filters.get("most_aspect", float("inf")) * min(size):
                return "most_aspect"
    return None


def _size(picture: Raw) -> tuple[int, int] | None:
    local = picture.data is None and "://" not in (picture.path or "")
    try:
        return picture_size(Path(picture.path or "") if local else picture.read())
    except OSError:
        return None
