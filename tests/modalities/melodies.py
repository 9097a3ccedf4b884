"""A modality of its own, as docs/modalities.md makes one: melodies, whose codes are the notes of the MIDI scale.

A source gives pairs of a melody and its title. `path` is a folder of .notes files: a title, then notes by number, one a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from momafuse.config.schema import SourceConfig
from momafuse.data.codecs import register_codec
from momafuse.data.sources import Source, folder_fingerprint, in_memory, register, split_of, user_folder
from momafuse.errors import UserError

Notes = npt.NDArray[np.int64]


class Melodies:
    """Items are rows of notes; as many codes as notes (`block` 0), which may be cut where a sequence ends."""

    codes, block = 128, 0
    fingerprint = hashlib.sha256(b"melodies 1").hexdigest()

    def read(self, data: bytes) -> Notes:
        notes = np.array([int(line) for line in data.decode().split("\n")[1:] if line], np.int64)
        if not len(notes) or notes.min() < 0 or notes.max() > 127:
            raise ValueError("no notes, or one that is not 0 to 127")
        return notes

    def vary(self, item: Notes, key: str, variant: int, texts: Sequence[str]) -> Notes:
        """Training versions are moved up by half tones."""
        return np.minimum(item + variant, 127)

    def encode(self, items: Sequence[Notes]) -> list[Notes]:
        return list(items)

    def decode(self, codes: Notes) -> Notes:
        return codes

    def file(self, item: Notes) -> tuple[str, bytes]:
        return "notes", "\n".join(["melody", *map(str, item)]).encode()

    def drawn(self, items: Sequence[Notes]) -> list[npt.NDArray[Any]]:
        """A piano roll: rows are notes, columns time."""
        return [(np.arange(128)[:, None] == item[None]).astype(float) for item in items]


@register_codec("melody")
def melodies(name: str, device: str) -> Melodies:
    if name != "notes":
        raise UserError(f"tokenizer.melody={name}: there is one, notes")
    return Melodies()


@register("melodies")
def titled_melodies(config: SourceConfig) -> Source:
    folder = user_folder(config)
    files = sorted(folder.glob("*.notes"))
    rows = []
    for number, file in enumerate(files):
        melody = {"modality": "melody", "raw": {"bytes": None, "path": str(file)}}
        title = {"text": file.read_text().split("\n")[0]}
        rows.append((file.name, split_of(file.name, number), [melody, title]))
    return Source(in_memory(rows), folder_fingerprint(files, folder))
