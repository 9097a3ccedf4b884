"""Groups near-identical pictures and splits the pack by group, so that no series stands on both sides.

Two pictures are joined by a shared series (source, folder and title stem) or by a difference hash of 16 x 16 cells
(256 bits) at Hamming distance at most 16. A group's name is its smallest key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from starter_pack.items import Item
from starter_pack.rules import title_stem

CELLS = 16
NEAR_DISTANCE = 16
VALIDATION_SHARE = 0.05
GLOSS_VALIDATION_SHARE = 0.02
_ROWS = 1024


def difference_hash(picture: Image.Image) -> NDArray[np.bool_]:
    """256 bits: whether each of 16 x 17 grey cells is darker than its right neighbour."""
    grey = np.asarray(picture.convert("L").resize((CELLS + 1, CELLS), Image.Resampling.LANCZOS), dtype=np.int16)
    return (grey[:, 1:] > grey[:, :-1]).reshape(-1)


def distances(hashes: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Hamming distances (N, M) between bit rows (N, 256) and (M, 256)."""
    a, b = hashes.astype(np.float32), others.astype(np.float32)
    different: NDArray[np.float32] = a.sum(1)[:, None] + b.sum(1)[None] - 2 * a @ b.T
    return np.rint(different).astype(np.int64)


def fraction(name: str) -> float:
    """A fixed number in [0, 1) for a name: the first 8 hex digits of its SHA-256 over 2**32."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32


def group_names(items: Sequence[Item], hashes: NDArray[np.bool_]) -> list[str]:
    """The name of each item's group, given its difference hash (N, 256)."""
    series = [[(item.source, item.folder, title_stem(item.source, item.title))] for item in items]
    return join([item.key for item in items], series, hashes)


def join(keys: Sequence[str], series: Sequence[Iterable[Hashable]], hashes: NDArray[np.bool_]) -> list[str]:
    """The smallest key of each picture's group: of all that share one of its series, or look like it, and so on from these.

    `hashes` (N, 256); compares `_ROWS` of them at a time with all, so that memory grows with N alone.
    """
    parent = list(range(len(keys)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_of_series: dict[Hashable, int] = {}
    for index, shared in enumerate(series):
        for name in shared:
            parent[root(index)] = root(first_of_series.setdefault(name, index))
    for first in range(0, len(keys), _ROWS):
        for left, right in np.argwhere(distances(hashes[first : first + _ROWS], hashes) <= NEAR_DISTANCE):
            parent[root(first + int(left))] = root(int(right))
    names: dict[int, str] = {}
    for index, key in enumerate(keys):
        names[root(index)] = min(key, names.get(root(index), key))
    return [names[root(index)] for index in range(len(keys))]


def split_of(name: str, validation_share: float) -> str:
    """ "validation" for that share of names, "train" for the others."""
    return "validation" if fraction(name) < validation_share else "train"
