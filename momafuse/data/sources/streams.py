"""A user's files as one stream of documents: what text_files, conversations and obelics have in common.

`.jsonl` (also `.jsonl.gz`) and `.parquet` hold a document a row in named columns, `.txt` and `.md` a document a file, of
several million characters at most: a longer one is as many. A document's key is the hash of its content: repeats fall on one
side of the split, and adding a file moves no other document. Files are read in the order of their paths, never whole where
they have rows. A text file that is no UTF-8 is handed over as a file, which the encoder rejects with the reason. Decodes no
pictures.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import Row, Source, Stream, folder_fingerprint, user_folder
from momafuse.data.sources.splitting import split_of, split_text
from momafuse.errors import UserError
from momafuse.tokens.text import not_utf8

Segments = list[dict[str, Any]]
# A row's values -> the content that its key is a hash of, and its segments; None: left out. ValueError where it is wrong.
Document = Callable[..., tuple[str, Segments] | None]

PLAIN = (".txt", ".md")
LINES = (".jsonl", ".jsonl.gz")
PARQUET = (".parquet",)
BLOCK = 1 << 23  # characters of a text file that are one document at most
_BATCH = 512  # rows read at once
_SURROGATE = re.compile("[\ud800-\udfff]")


def row_files(config: SourceConfig, column: str, suffixes: Sequence[str]) -> list[Path]:
    """The files with one of `suffixes`, sorted. Raises UserError where there are none."""
    paths = with_suffix(all_files(user_folder(config)), suffixes)
    if not paths:
        known = " or of ".join(filter(None, [", of ".join(suffixes[:-1]), suffixes[-1]]))
        raise UserError(f"path={config.path}: no {column} here; give a folder of {known} files")
    return paths


def with_suffix(paths: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    return [path for path in paths if path.name.lower().endswith(tuple(suffixes))]


def all_files(path: Path) -> list[Path]:
    """Every file in a folder and its sub-folders, sorted; a file is itself. Hidden folders are passed over, and what momafuse
    has written there: corpora and runs."""
    if path.is_file():
        return [path]
    found: list[Path] = []
    for folder, below, names in os.walk(path):
        here = Path(folder)
        below[:] = [name for name in below if not name.startswith(".") and name != "__MACOSX" and not _is_ours(here / name)]
        found += [file for name in names if not name.startswith("._") and (file := here / name).is_file()]
    return sorted(found)


def _is_ours(folder: Path) -> bool:
    corpus, run = ("manifest.json", "train/tokens.bin"), ("config.yaml", "metrics.jsonl")
    return folder.name.endswith(".unfinished") or any(all((folder / n).is_file() for n in names) for names in (corpus, run))


def read_rows(config: SourceConfig, paths: Sequence[Path], columns: Sequence[str], document: Document) -> Source:
    """Documents in the order of `paths`; `document` takes a row's values of `columns` (of a text file, its text).

    Raises UserError where the first row cannot be read; a later one ends the stream with a ValueError that names its place.
    """
    root = user_folder(config)
    stream = Stream(partial(_rows, config, paths, columns, document))
    try:
        for _ in islice(stream.rows(), _BATCH):  # what is wrong with all of the data shows here
            pass
    except (ValueError, OSError) as error:
        wanted, reason = " or ".join(columns), " ".join(str(error).split())
        raise UserError(f"path={config.path}: cannot read a column {wanted} from the files: {reason}") from error
    fingerprint = folder_fingerprint(paths, root.parent if root.is_file() else root)
    return Source(stream, fingerprint, held_out=config.held_out)


def string_of(column: str, value: Any) -> str:
    """Nothing for null. ValueError for what is no text."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{column}: {str(value)[:60]} is no text")
    return unicode_text(value or "")


def unicode_text(text: str) -> str:
    """With U+FFFD for lone surrogates, which no file of UTF-8 can hold."""
    return _SURROGATE.sub("\ufffd", text)


def _rows(config: SourceConfig, paths: Sequence[Path], columns: Sequence[str], document: Document) -> Iterator[Row]:
    first, total, given = "", sum(path.stat().st_size for path in paths), user_folder(config)
    root = given.parent if given.is_file() else given
    for path in paths:
        for at, row in enumerate(_read(path, columns), 1):
            if isinstance(row, str) and not row.strip():
                continue
            try:
                found = None if row is None else document(*(_values(row, columns) if isinstance(row, str) else row))
            except ValueError as error:
                raise ValueError(f"{path.name}, row {at}: {error}") from error
            if found is not None:
                key = content_key(found[0])
                first = first or key  # repeats of the first document are held out as it is
                yield from divided(config, int(key != first), total, key, found[1])
            elif row is None:  # read again by the encoder, which rejects it
                unread = {"modality": "text", "raw": {"bytes": None, "path": str(path)}}
                name = path.relative_to(root).as_posix()
                yield name, split_of(name, 1, config.held_out), [unread]


def content_key(content: str) -> str:
    """The key of a document that has no name of its own."""
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def divided(config: SourceConfig, number: int, total: int | None, key: str, segments: Segments) -> Iterator[Row]:
    """The source's document `number`, or the stretches of one that is a long text alone. The first one is 0, and what repeats
    it. `total`: bytes of the source, where known."""
    if len(segments) == 1 and segments[0].get("text") and not segments[0].get("given"):
        for part, split, text in split_text(segments[0]["text"], key, number, config.held_out, total):
            yield part, split, [{"text": text}]
    else:
        yield key, split_of(key, number, config.held_out), segments


def _read(path: Path, columns: Sequence[str]) -> Iterator[str | tuple[Any, ...] | None]:
    """What a file holds: lines of JSON, values of `columns`, or texts; None for a text that is no UTF-8."""
    if path.name.lower().endswith(PLAIN):
        return _texts(path)
    return _parquet(path, columns) if path.name.lower().endswith(PARQUET) else _lines(path)


def _texts(path: Path) -> Iterator[tuple[str] | None]:
    """The text of a file, in blocks that end with a line where it has any."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            rest = ""
            while block := file.read(BLOCK):
                text = rest + block
                end = (text.rfind("\n") + 1 or len(text)) if len(text) >= BLOCK else len(text)
                yield (text[:end],)
                rest = text[end:]
            if rest:
                yield (rest,)
    except UnicodeDecodeError:
        yield None


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: {not_utf8(error)}") from error
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _values(line: str, columns: Sequence[str]) -> tuple[Any, ...]:
    row = json.loads(line)
    for column in columns:
        if not isinstance(row, dict) or column not in row:
            raise ValueError(f'a line without "{column}": {line[:60]}')
    return tuple(row[column] for column in columns)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
        if missing := set(columns) - set(file.schema_arrow.names):
            raise ValueError(f"{path.name}: no column {min(missing)}; there are {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(_BATCH, columns=list(columns)):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
    except pa.ArrowException as error:
        raise ValueError(f"{path.name}: {error}") from error
