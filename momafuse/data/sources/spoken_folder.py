"""A user's folder of sounds with what is said in them, and pictures where there are any.

`metadata.csv`, `.jsonl` or `.parquet` in the folder has a row a document: `file_name` (the sound, from the folder on), and,
each where it is known, `text` or `transcript`, `image` (a picture's path) and `split` (train or validation; else 2 % are held
out by key). One segment each, in an order that follows from the key, so that a model learns to speak what it reads, to write
what it hears, and so on; the key is `file_name`. Files are not opened here: one that is missing, or is no sound, is rejected
with its reason when it is encoded.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.captioned_folder import SPLITS
from momafuse.data.sources.captions import TABLES, read_table
from momafuse.data.sources.registry import Source, folder_fingerprint, in_memory, register, user_folder
from momafuse.data.sources.splitting import split_of
from momafuse.data.sources.streams import Segments, all_files, unicode_text
from momafuse.errors import UserError

_TEXTS = ("text", "transcript")


@register("spoken_folder")
def spoken_folder(config: SourceConfig) -> Source:
    """Documents in the order of a hash of their keys. Raises UserError where there is no metadata of this form."""
    folder = user_folder(config)
    files = [folder / name for name in TABLES if (folder / name).is_file()]
    if not files:
        raise UserError(f"path={config.path}: no {' or '.join(TABLES)}; write one with the columns file_name,text")
    rows = []
    for number, row in enumerate(_rows(config, files[0])):
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"path={config.path}: {files[0].name}: row {number + 1} has no file_name; give it one")
        split = row.get("split") or None
        if split is not None and split not in SPLITS:
            raise UserError(f"path={config.path}: {files[0].name}: row {number + 1}: split={split}; write train or validation")
        side = SPLITS[split] if split else split_of(name, number, config.held_out)
        rows.append((name, side, _segments(folder, name, row)))
    if len({name for name, _, _ in rows}) < len(rows):
        raise UserError(f"path={config.path}: {files[0].name} names a file twice; leave one row of each")
    return Source(in_memory(rows), folder_fingerprint(all_files(folder), folder))


def _rows(config: SourceConfig, file: Path) -> list[dict[str, Any]]:
    try:
        return read_table(file.name, file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"path={config.path}: {file.name}: {' '.join(str(error).split())}; write it as CSV, JSON lines or parquet"
        ) from error


def _segments(folder: Path, name: str, row: dict[str, Any]) -> Segments:
    segments: Segments = [{"modality": "speech", "raw": {"bytes": None, "path": str(folder / name)}}]
    if text := next((str(row[key]) for key in _TEXTS if row.get(key)), ""):
        segments.append({"text": unicode_text(text)})
    if row.get("image"):
        segments.append({"image": {"bytes": None, "path": str(folder / str(row["image"]))}})
    return sorted(segments, key=lambda s: hashlib.sha256(f"place:{name}:{sorted(s)}".encode()).digest())
