"""Of a corpus whose pictures lie in FOLDER/train and FOLDER/validation: that none that is trained on looks like a held-out one.

Taken away is what is blank, what is there already, and what of `train` differs from a held-out picture of any folder of the
corpus in no more than 16 of the 256 bits of its difference hash, as the starter pack does. Which pictures are held out, and how
they are written, is each corpus's own business.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from corpora.metadata import TRAIN, VALIDATION
from numpy.typing import NDArray
from PIL import Image
from starter_pack.groups import NEAR_DISTANCE, difference_hash, distances
from starter_pack.pictures import is_near_blank, render

_ROWS = 1024  # pictures to train on that are compared at a time


class Pictures:
    """The pictures of a corpus that have been written so far."""

    def __init__(self) -> None:
        self._hashes: dict[str, dict[Path, NDArray[np.bool_]]] = {TRAIN: {}, VALIDATION: {}}
        self._seen: set[bytes] = set()

    def add(self, path: Path, side: str) -> None:
        """Keeps the file, or deletes it where it is blank, cannot be read, or is equal to an earlier one at 64 pixels."""
        picture = look(path)
        if picture is None or picture.tobytes() in self._seen:
            path.unlink()
            return
        self._seen.add(picture.tobytes())
        self._hashes[side][path] = difference_hash(picture)

    def settle(self, out: Path) -> dict[str, int]:
        """Deletes from `train` what is near a held-out picture; counts what is there, by folder and side."""
        held_out, train = self._hashes[VALIDATION], self._hashes[TRAIN]
        near = []
        if held_out:
            others, paths = np.stack(list(held_out.values())), list(train)
            for first in range(0, len(paths), _ROWS):
                rows = np.stack([train[path] for path in paths[first : first + _ROWS]])
                close = (distances(rows, others) <= NEAR_DISTANCE).any(1)
                near += [paths[first + int(row)] for row in np.flatnonzero(close)]
        for path in near:
            path.unlink()
            del train[path]
        counts = Counter(_place(path, out, side) for side, found in self._hashes.items() for path in found)
        return dict(sorted(counts.items())) | {"too near a held-out one": len(near)}


def look(path: Path) -> Image.Image | None:
    """The picture at 64 pixels, as pictures are compared; None where it is blank or cannot be read."""
    try:
        picture = render(path)
    except (OSError, Image.DecompressionBombError):
        return None
    return None if picture is None or is_near_blank(picture) else picture


def _place(path: Path, out: Path, side: str) -> str:
    parts = path.relative_to(out).parts
    return "/".join(parts[: parts.index(side) + 1])
