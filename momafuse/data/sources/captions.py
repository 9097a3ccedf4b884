"""Where the pictures of a user's folder and their captions lie: files and archives, tables, texts beside pictures, file names.

A table is `metadata.csv`, `.jsonl` or `.parquet`: a column `file_name` (a path from the table's folder on, or inside of an
archive beside it), and others. A caption beside its picture is NAME.txt or NAME.caption. All of it may lie in archives, too.
Builds no documents (captioned_folder.py).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from momafuse.data.sources.archives import Archive, is_archive
from momafuse.data.sources.pictures import is_picture
from momafuse.tokens.text import read_utf8

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_BESIDE = (".txt", ".caption")
_WORD = re.compile(r"[^\W\d_]{2,}")
_CAMERA = re.compile(r"(img|dsc[fn]?|pict?|image|photo|scan|screenshot|untitled)\d*|[0-9a-f]{8,}", re.IGNORECASE)
Bytes = Callable[[], bytes]


@dataclass(frozen=True, order=True)
class Picture:
    """`key` is its path in the folder, through the archive's name where it lies in one; `path` that of its file or archive."""

    key: str
    path: Path
    member: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The paths in the folder by which a table may mean it."""
        inside = self.key.removesuffix(f"{self.path.name}/{self.member}") if self.member else ""
        return (self.key, f"{inside}{self.member}") if self.member else (self.key,)


@dataclass(frozen=True)
class Found:
    """What a folder holds: pictures; captions beside them and tables, to be read, by their keys."""

    pictures: list[Picture] = field(default_factory=list)
    beside: dict[str, Bytes] = field(default_factory=dict)
    tables: dict[str, Bytes] = field(default_factory=dict)

    def caption(self, picture: Picture) -> str | None:
        """What a text file beside it says; None where there is none. Raises ValueError where it is no UTF-8."""
        for suffix in _BESIDE:
            name = str(PurePosixPath(picture.key).with_suffix(suffix))
            if name in self.beside:
                try:
                    return read_utf8(self.beside[name]()).strip()
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
        return None


def is_table(path: Path) -> bool:
    return path.name in TABLES


def is_caption(path: Path, pictures: Collection[Path]) -> bool:
    """Whether it lies beside one of `pictures`, whose paths come without their suffix."""
    return path.suffix.lower() in _BESIDE and path.with_suffix("") in pictures


def key_of(folder: Path, path: Path) -> str:
    """The path in the folder; names need not be UTF-8."""
    return path.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode()


def find(folder: Path, files: Iterable[Path]) -> Found:
    """Raises ValueError for an archive that cannot be read."""
    found = Found()
    for path in files:
        key = key_of(folder, path)
        if is_archive(path):
            archive = Archive(path)
            for name in archive.names:
                _sort(found, f"{key}/{name}", Picture(f"{key}/{name}", path, name), partial(archive.read, name))
        else:
            _sort(found, key, Picture(key, path), path.read_bytes)
    found.pictures.sort()
    return found


def _sort(found: Found, key: str, picture: Picture, data: Bytes) -> None:
    path = PurePosixPath(key)
    if is_picture(path):
        found.pictures.append(picture)
    elif path.name in TABLES:
        found.tables[key] = data
    elif path.suffix.lower() in _BESIDE:
        found.beside[str(path.with_suffix(path.suffix.lower()))] = data


def read_table(name: str, data: bytes) -> list[dict[str, Any]]:
    """The rows of a table of that name. Raises ValueError where it is none."""
    if name.endswith(".parquet"):
        import pyarrow as pa
        from pyarrow.parquet import read_table as read

        try:
            rows: list[dict[str, Any]] = read(pa.BufferReader(data)).to_pylist()
        except pa.ArrowException as error:
            raise ValueError(" ".join(str(error).split())) from error
        return rows
    text = read_utf8(data)
    if name.endswith(".csv"):
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise ValueError(str(error)) from error
        if odd := next((n for n, row in enumerate(rows, 1) if None in row), None):
            raise ValueError(f"row {odd} has more cells than the head; put texts with commas in quotes")
        return rows
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line that is no object")
    return rows


def by_name(pictures: Iterable[Picture]) -> Mapping[str, Picture]:
    return {name: picture for picture in pictures for name in picture.names}


def caption_by_name(name: str) -> str | None:
    """The words of a file's name, `red_apple-02.png` -> `red apple`; None where it has none, as IMG_2041.jpg."""
    words = [word for word in re.split(r"[\s_.\-]+", PurePosixPath(name).stem) if word and not _CAMERA.fullmatch(word)]
    words = [word for word in words if not word.isdigit()]
    return " ".join(words) if any(_WORD.search(word) for word in words) else None
