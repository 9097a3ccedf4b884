"""The pictures of a run's sources, for the image tokenizer: those of every document, decoded once to know that they can be.

They stay in memory up to 4 GiB of pixels; of more, the files' bytes or paths stay, and a picture is decoded when it is wanted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from momafuse.config.schema import SourceConfig
from momafuse.data.progress import Progress
from momafuse.data.sources import Item, Raw, open_source
from momafuse.errors import UserError
from momafuse.vision.codec import decode_picture

THREADS = 4  # decoders: most of their time is in Pillow's C code
AT_ONCE = 256  # pictures on their way
IN_MEMORY = 4 << 30  # bytes


class Pictures:
    """uint8 (3, S, S) by number; `pixels` (N, 3, S, S) of all where there is room for them."""

    def __init__(self, raws: Sequence[Raw], size: int, pixels: Tensor | None) -> None:
        self.size, self._raws, self._pixels = size, raws, pixels

    def __len__(self) -> int:
        return len(self._raws if self._pixels is None else self._pixels)

    def __getitem__(self, number: int) -> Tensor:
        return decode_picture(self._raws[number].read(), self.size) if self._pixels is None else self._pixels[number]

    def of(self, numbers: Sequence[int]) -> Tensor:
        """(n, 3, S, S)."""
        if not numbers:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return torch.stack([self[number] for number in numbers])


@dataclass(frozen=True)
class Found:
    pictures: Pictures
    larger: Pictures | None  # the same, twice as large
    titles: list[str]
    kinds: list[str]  # the source of each
    heldout: list[bool]
    rejects: list[tuple[str, str]]  # source and key, and why it cannot be used
    fingerprint: str


def read_pictures(sources: Mapping[str, SourceConfig], size: int, *, larger: bool) -> Found:
    """Raises UserError for a source that cannot be opened, and where no picture can be used."""
    raws: list[Raw] = []
    titles, kinds, heldout, rejects = list[str](), list[str](), list[bool](), list[tuple[str, str]]()
    sizes = (size, 2 * size) if larger else (size,)
    kept: list[list[Tensor]] | None = [[] for _ in sizes]
    digest = hashlib.sha256()
    with Progress() as progress, ThreadPoolExecutor(THREADS) as pool:
        for name, config in sources.items():
            source = open_source(name, config)
            digest.update(f"{name}\0{source.fingerprint}\n".encode())
            progress.source(name, source.documents, 0)
            for together in _together(source.items()):
                progress.advance(len({id(item) for item, _ in together}))
                decoded = pool.map(lambda one: _decoded(one[1], sizes), together)
                for (item, raw), found in zip(together, decoded, strict=True):
                    if isinstance(found, str):
                        rejects.append((f"{name}/{item.key}", found))
                        digest.update(f"without {name}/{item.key}\n".encode())
                        continue
                    if kept is not None:
                        for pixels, picture in zip(kept, found, strict=True):
                            pixels.append(picture)
                        kept = kept if len(titles) * sum(3 * s * s for s in sizes) < IN_MEMORY else None
                    raws.append(raw)
                    titles.append(" ".join(s for s in item.segments if isinstance(s, str)) or item.key)
                    kinds.append(name)
                    heldout.append(item.split == "validation")
    if not raws:
        first = next((f"; the first of {len(rejects)}: {key} ({why})" for key, why in rejects), "")
        raise UserError(f"data.sources={{{', '.join(sources)}}}: no picture that can be used{first}")
    held = [] if kept is not None else raws  # files' bytes, where nothing else is kept
    pictures = [Pictures(held, s, torch.stack(kept[n]) if kept is not None else None) for n, s in enumerate(sizes)]
    return Found(pictures[0], pictures[1] if larger else None, titles, kinds, heldout, rejects, digest.hexdigest())


def _together(items: Iterator[Item]) -> Iterator[list[tuple[Item, Raw]]]:
    """The pictures of documents, as many at once as are decoded together."""
    held: list[tuple[Item, Raw]] = []
    for item in items:
        held += [(item, segment) for segment in item.segments if isinstance(segment, Raw) and segment.modality == "image"]
        if len(held) >= AT_ONCE:
            yield held
            held = []
    yield held


def _decoded(raw: Raw, sizes: Sequence[int]) -> list[Tensor] | str:
    """At each size, or why it cannot be used."""
    try:
        data = raw.read()
        return [decode_picture(data, size) for size in sizes]
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
