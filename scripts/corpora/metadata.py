"""What the corpora have in common: the table of a folder of sounds, and draws that follow from names."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path


def share_of(kind: str, stamp: str) -> float:
    """In [0, 1), the same for all that belongs to a stamp."""
    return int.from_bytes(hashlib.sha256(f"{kind}:{stamp}".encode()).digest()[:8]) / 2**64


def write_metadata(folder: Path, rows: Sequence[dict[str, str]]) -> None:
    """metadata.csv as the reader spoken_folder wants it."""
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "text", "image", "split"])
        writer.writeheader()
        writer.writerows(rows)
