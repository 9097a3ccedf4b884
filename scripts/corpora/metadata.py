"""What the corpora have in common: draws that follow from names, among them the split, and the tables of their folders."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

TRAIN, VALIDATION = "train", "validation"
HELD_OUT = 0.05
SPOKEN = ("file_name", "text", "image", "split")
CAPTIONED = ("file_name", "text", "split")


def share_of(kind: str, stamp: str) -> float:
    """In [0, 1), the same for all that belongs to a stamp."""
    return int.from_bytes(hashlib.sha256(f"{kind}:{stamp}".encode()).digest()[:8]) / 2**64


def side_of(stamp: str) -> str:
    """One stamp in twenty is held out."""
    return VALIDATION if share_of("split", stamp) < HELD_OUT else TRAIN


def write_metadata(folder: Path, rows: Sequence[dict[str, str]], columns: Sequence[str] = SPOKEN) -> None:
    """metadata.csv, as the readers captioned_folder (without `image`) and spoken_folder want it."""
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
