"""Seeds of draws that must not hang on one another: of a step, a rank, an item.

torch's generator on a CPU seeds itself by the lower 32 bits of what it is given and leaves the rest, so parts that are shifted
above each other are lost. Here every bit hangs on all parts: a hash. Two of n seeds are equal on a CPU with a chance of about
n^2 / 2^33, which gives two draws the same numbers, and no more.
"""

from __future__ import annotations

import hashlib


def seed_of(*parts: int | str) -> int:
    """Of 63 bits."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
