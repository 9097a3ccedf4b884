"""Writes the pack's files so that the same content gives the same bytes, and the manifest that names their hashes."""

from __future__ import annotations

import hashlib
import json
import lzma
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

MANIFEST = "manifest.json"
MAX_BYTES = 10_000_000
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def write_zip(path: Path, pictures: Sequence[bytes]) -> None:
    """A stored zip of `00000.webp ...` with fixed times and attributes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, data in enumerate(pictures):
            entry = zipfile.ZipInfo(f"{number:05d}.webp", _ZIP_TIME)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """UTF-8 lines, compressed with xz."""
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(lzma.compress(text.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME))


def pack_hash(files: dict[str, dict[str, object]]) -> str:
    """One hash for the pack: SHA-256 over "name sha256" lines in sorted order. The tools' versions do not enter."""
    return hashlib.sha256("".join(f"{name} {files[name]['sha256']}\n" for name in sorted(files)).encode()).hexdigest()


def write_manifest(folder: Path, facts: dict[str, object]) -> str:
    """Writes `manifest.json` over the files in `folder` and returns the pack's hash."""
    files: dict[str, dict[str, object]] = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            data = path.read_bytes()
            files[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    digest = pack_hash(files)
    manifest = {**facts, "files": files, "pack_sha256": digest}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return digest
