"""Where the pictures of a user's folder and their captions lie: files and archives, tables, texts beside pictures, file names.

A table is `metadata.csv`, `.jsonl` or `.parquet`: a column `file_name` (a path from the table's folder on, or inside of an
archive beside it), and others. A caption beside its picture is NAME.txt or NAME.caption. Builds no documents
(captioned_folder.py).
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from momafuse.tokens.text import read_utf8

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
ARCHIVES = (".zip", ".tar")
OTHER_ARCHIVES = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".7z", ".rar")
_BESIDE = (".txt", ".caption")
_WORD = re.compile(r"[^\W\d_]{2,}")
_CAMERA = re.compile(r"(img|dsc[fn]?|pict?|image|photo|scan|screenshot|untitled)\d*|[0-9a-f]{8,}", re.IGNORECASE)


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


@cache
def picture_suffixes() -> frozenset[str]:
    from PIL import Image

    return frozenset(Image.registered_extensions()) - {".pdf", ".h5", ".hdf"}


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in picture_suffixes()


def is_table(path: Path) -> bool:
    return path.name in TABLES


def is_caption(path: Path, pictures: Collection[Path]) -> bool:
    """Whether it lies beside one of `pictures`, whose paths come without their suffix."""
    return path.suffix.lower() in _BESIDE and path.with_suffix("") in pictures


def find_pictures(folder: Path, files: Iterable[Path]) -> Iterator[Picture]:
    """Those among `files`, and those in archives among them. Raises ValueError for an archive that cannot be read."""
    for path in files:
        key = path.relative_to(folder).as_posix().encode("utf-8", "replace").decode()  # names need not be UTF-8
        if is_picture(path):
            yield Picture(key, path)
        elif path.suffix.lower() in ARCHIVES:
            for name in _members(path):
                if is_picture(Path(name)):
                    yield Picture(f"{key}/{name}", path, name)


def _members(path: Path) -> list[str]:
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                return archive.namelist()
        with tarfile.open(path) as tar:
            return [member.name for member in tar if member.isfile()]
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error


class Archives:
    """Bytes of members; each archive is opened once."""

    def __init__(self) -> None:
        self._open: dict[Path, zipfile.ZipFile | tarfile.TarFile] = {}

    def read(self, path: Path, member: str) -> bytes:
        if path not in self._open:
            opened = zipfile.ZipFile if path.suffix.lower() == ".zip" else tarfile.open
            self._open[path] = opened(path)
        archive = self._open[path]
        if isinstance(archive, zipfile.ZipFile):
            return archive.read(member)
        file = archive.extractfile(member)
        return b"" if file is None else file.read()


def read_table(file: Path) -> list[dict[str, Any]]:
    """Its rows. Raises ValueError where it is no table."""
    if file.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow.parquet import read_table as read

        try:
            rows: list[dict[str, Any]] = read(file).to_pylist()
        except pa.ArrowException as error:
            raise ValueError(" ".join(str(error).split())) from error
        return rows
    text = read_utf8(file.read_bytes())
    if file.suffix == ".csv":
        try:
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise ValueError(str(error)) from error
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line that is no object")
    return rows


def caption_beside(path: Path) -> str | None:
    """What a text file beside a picture says; None where there is none. Raises ValueError where it is no UTF-8."""
    for suffix in _BESIDE:
        beside = path.with_suffix(suffix)
        if beside.is_file():
            try:
                return read_utf8(beside.read_bytes()).strip()
            except ValueError as error:
                raise ValueError(f"{beside.name}: {error}") from error
    return None


def caption_by_name(name: str) -> str | None:
    """The words of a file's name, `red_apple-02.png` -> `red apple`; None where it has none, as IMG_2041.jpg."""
    words = [word for word in re.split(r"[\s_.\-]+", Path(name).stem) if word and not _CAMERA.fullmatch(word)]
    words = [word for word in words if not word.isdigit()]
    return " ".join(words) if any(_WORD.search(word) for word in words) else None
