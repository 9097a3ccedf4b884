"""The registry of readers, and the one shape of documents that all of them give.

A reader is a function of its SourceConfig that returns a `Source`: a `datasets` dataset with the columns

    key       string, unique within the source; decides the split, the order of a pair and the variants
    split     "train" or "validation"
    segments  list of {"text": string or null, "image": undecoded picture or null}, one of the two set; for other modalities
              {"modality": its name, "raw": {"bytes", "path"}, one of the two set}, also `text` for one in a file of UTF-8;
              "given" may be true for what is context and no target of objective.answers_only=true (a prompt)

`@register("name")` adds one; a user's module named in `plugins` does the same. Decodes and encodes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.archives import DAMAGED
from momafuse.data.sources.splitting import SplitName
from momafuse.errors import UserError

FEATURE_NAMES = ("key", "split", "segments")
_ROWS = 512  # rows asked of a dataset at a time


@dataclass(frozen=True)
class Raw:
    """An undecoded picture, or an item of another modality: its file's bytes, or the path to read them from.

    A path may lead into an archive or to the hub, as `datasets` writes it (zip://a.png::b.zip); an address of the web is none.
    """

    data: bytes | None
    path: str | None
    modality: str = "image"

    def read(self) -> bytes:
        """Raises OSError where the file cannot be read."""
        if self.data is not None:
            return self.data
        path = self.path or ""
        if "://" not in path:
            return Path(path).read_bytes()
        if self.is_address:
            raise OSError(f"{path} is an address, which is not fetched; give the file")
        from datasets.utils.file_utils import xopen

        try:
            with xopen(path, "rb") as file:
                return bytes(file.read())
        except DAMAGED as error:
            raise OSError(f"{path}: {' '.join(str(error).split())}") from error

    @property
    def is_address(self) -> bool:
        return self.data is None and (self.path or "").startswith(("http://", "https://"))


@dataclass(frozen=True)
class Item:
    """One document before tokenisation."""

    key: str
    split: SplitName
    segments: tuple[str | Raw, ...]
    given: tuple[int, ...] = ()  # places in `segments` of those that are given


Row = tuple[str, SplitName, list[dict[str, Any]]]


@dataclass(frozen=True)
class Stream:
    """Rows (key, split, segments) that a function gives, as often as it is called: what is used of a streamed dataset."""

    rows: Callable[[], Iterable[Row]]
    count: int | None = None  # of all rows, where it is known
    skipped: int = 0

    def skip(self, count: int) -> Stream:
        return Stream(self.rows, self.count, self.skipped + count)

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        """Of rows that fail, those before are given first."""
        batch: list[Row] = []
        try:
            for row in islice(self.rows(), self.skipped, None):
                batch.append(row)
                if len(batch) == batch_size:
                    yield _columns(batch)
                    batch = []
        except Exception:
            if batch:
                yield _columns(batch)
            raise
        if batch:
            yield _columns(batch)


@dataclass(frozen=True)
class Source:
    """`dataset`: datasets.Dataset or IterableDataset with `features()`, or a Stream; `fingerprint` changes when its content
    does.

    `held_out_only`: it has no training documents, on purpose, so that a corpus of such sources is for evaluation alone.
    `may_be_empty`: it is what a folder holds beside other things. `held_out`: the share that the reader was asked to hold
    out, where it divides by it. `notes`: lines that the user should read.
    """

    dataset: Any
    fingerprint: str
    held_out_only: bool = field(default=False, kw_only=True)
    may_be_empty: bool = field(default=False, kw_only=True)
    held_out: float | None = field(default=None, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def documents(self) -> int | None:
        """None where it is known only at the end."""
        return self.dataset.count if isinstance(self.dataset, Stream) else getattr(self.dataset, "num_rows", None)

    def items(self, skip: int = 0) -> Iterator[Item]:
        """All documents in the dataset's order but the first `skip`."""
        for rows in self.dataset.skip(skip).iter(batch_size=_ROWS):
            for key, split, segments in zip(*(rows[name] for name in FEATURE_NAMES), strict=True):
                given = tuple(place for place, s in enumerate(segments) if s.get("given"))
                yield Item(key, split, tuple(_segment(s) for s in segments), given)


Reader = Callable[[SourceConfig], Source]
_READERS: dict[str, Reader] = {}


def register(name: str) -> Callable[[Reader], Reader]:
    """Adds a reader under a name that `data.sources.*.reader` can choose. A name is given once."""

    def add(reader: Reader) -> Reader:
        if _READERS.setdefault(name, reader) is not reader:
            raise UserError(f"reader {name} is registered twice; give the second one another name")
        return reader

    return add


def open_source(name: str, config: SourceConfig) -> Source:
    """The source `data.sources.NAME`. Raises UserError for an unknown reader or a path that its reader cannot use."""
    if config.reader not in _READERS:
        known = ", ".join(sorted(_READERS))
        raise UserError(f"data.sources.{name}.reader={config.reader}: no such reader; there are {known} (plugins add more)")
    try:
        return _READERS[config.reader](config)
    except UserError as error:
        raise UserError(f"data.sources.{name}.{error}") from error


def features() -> Any:
    """The datasets.Features that every reader's dataset has."""
    from datasets import Features, Image, List, Value

    raw = {"bytes": Value("binary"), "path": Value("string")}
    segment = {
        "text": Value("string"),
        "image": Image(decode=False),
        "modality": Value("string"),
        "raw": raw,
        "given": Value("bool"),
    }
    return Features({"key": Value("string"), "split": Value("string"), "segments": List(segment)})


def in_memory(rows: Iterable[Row]) -> Stream:
    """The rows in the order of a hash of their keys: neighbours sample everything."""
    ordered = sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).digest())
    return Stream(lambda: ordered, len(ordered))


def folder_fingerprint(paths: Iterable[Path], root: Path) -> str:
    """A hash of names, sizes and times of change: cheap, and different when a file is added, removed or written."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def user_folder(config: SourceConfig) -> Path:
    """The folder (or single file) that `path` names. Raises UserError where it is missing."""
    if config.path is None:
        raise UserError(f"path=null: the reader {config.reader} needs a path; set it to your folder")
    path = Path(config.path).expanduser()
    if not path.exists():
        raise UserError(
            f"path={config.path}: no such file or folder; set it to your data, or fetch some (scripts/fetch_corpus.py)"
        )
    return path.resolve()


def _columns(rows: list[Row]) -> dict[str, list[Any]]:
    return dict(zip(FEATURE_NAMES, map(list, zip(*rows, strict=True)), strict=True))


def _segment(row: dict[str, Any]) -> str | Raw:
    if row.get("image") is not None:
        return Raw(row["image"]["bytes"], row["image"]["path"])
    if row.get("modality") is not None:
        return Raw(row["raw"]["bytes"], row["raw"]["path"], row["modality"])
    return str(row["text"])
