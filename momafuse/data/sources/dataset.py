"""Whatever `datasets` opens, as documents: sets of the hub, webdataset tars, parquet, JSON lines (loading.py says how).

    text      without `image`: the column of texts (text). A row is a document, a long one several (splitting.py)
    image     the column of pictures, of their bytes or of their files' paths; `caption` is that of their texts (text or
              caption). A row with a list of captions is as many documents
    lists     of pictures and texts, of which one is null where the other is set, are an interleaved document (obelics.py)
    group     the column whose values are held out together

`json.caption` is what a column holds under a key. Rows without a text are left out; what is held out follows from the group,
else from the picture, else from the text. Keys are webdataset's names, else hashes of the content. Pictures are not decoded
here. Addresses are not fetched: a set of nothing else is refused, a single one is rejected when it is encoded. Going on after
a stop reads from the beginning, since only that says how many documents the rows made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.loading import Table, load
from momafuse.data.sources.obelics import interleaved, picture_of
from momafuse.data.sources.registry import Raw, Row, Source, Stream, register
from momafuse.data.sources.splitting import split_of
from momafuse.data.sources.streams import Segments, content_key, divided, string_of
from momafuse.errors import UserError

_CAPTIONS = ("text", "caption")
_NAME, _TAR = "__key__", "__url__"  # webdataset's columns
_SEEN = 16  # rows that are looked at when a source is opened
_REMEDY = (
    "fetch the pictures and put their bytes or paths there (img2dataset makes tars of such a list, which are "
    "path=webdataset image=jpg caption=txt)"
)


@dataclass(frozen=True)
class Column:
    """A column, or with `keys` what lies in it under them."""

    top: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.top, *self.keys))

    def of(self, row: dict[str, Any]) -> Any:
        """None where a key is not there."""
        value = row.get(self.top)
        for key in self.keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


@dataclass(frozen=True)
class Found:
    """The documents of a row, each by the content that its key is a hash of; `picture`, if any, decides their split."""

    documents: list[tuple[str, Segments]]
    picture: str | None = None


Reading = Callable[[dict[str, Any]], Found]


@register("dataset")
def dataset(config: SourceConfig) -> Source:
    """Documents in the set's order. Raises UserError where it cannot be opened, has no such columns, or holds addresses."""
    table = load(config)
    group = _column(config, table, "group", config.group) if config.group else None
    read: Reading
    if config.image is None:
        text = _column(config, table, "text", config.text or "text")
        columns, read = [text], partial(_text, text)
    else:
        asked = config.caption or config.text
        text = _column(config, table, "caption", *((asked,) if asked else _CAPTIONS))
        image = _column(config, table, "image", config.image)
        columns, read = [text, image], partial(_with_picture, table, image, text)
    columns += [group] if group else []
    needed = [name for name in table.columns if name in (_NAME, _TAR, *(column.top for column in columns))]
    _check(config, table, needed, columns, read)
    stream = Stream(partial(_rows, config, table, needed, read, group))
    return Source(stream, table.fingerprint, held_out_only=config.held_out == 1, held_out=config.held_out)


def _column(config: SourceConfig, table: Table, field: str, *names: str) -> Column:
    """The first of `names` that is there. Raises UserError where none is."""
    for name in names:
        parts = name.split(".")
        for count in range(len(parts), 0, -1):  # names of columns may have dots, too
            if (top := ".".join(parts[:count])) in table.columns:
                return Column(top, tuple(parts[count:]))
    there = ", ".join(table.columns) or "no rows at all"
    raise UserError(f"path={config.path}: no column {' or '.join(names)}; there are {there}: name one by {field}=COLUMN")


def _check(config: SourceConfig, table: Table, needed: Sequence[str], columns: Sequence[Column], read: Reading) -> None:
    """Raises UserError for what the first rows show to be wrong with all of them."""
    try:
        seen = list(islice(table.rows(needed), _SEEN))
        found = [_numbered(read, at, row) for at, row in enumerate(seen, 1)]
    except (OSError, ValueError) as error:
        raise UserError(f"path={config.path}: {' '.join(str(error).split())}; name other columns or repair it") from error
    for column in columns:
        if column.keys and all(column.of(row) is None for row in seen):
            held = next((value for row in seen if isinstance(value := row.get(column.top), dict)), {})
            there = ", ".join(held) or "no keys"
            raise UserError(f"path={config.path}: nothing is under {column}; {column.top} holds {there}")
    segments = [segment for f in found for _, document in f.documents for segment in document]
    pictures = [Raw(image["bytes"], image["path"]) for segment in segments if (image := segment.get("image"))]
    if pictures and all(picture.is_address for picture in pictures):
        raise UserError(
            f"path={config.path}: {config.image} holds addresses ({pictures[0].path}), none of them fetched; {_REMEDY}"
        )


def _rows(config: SourceConfig, table: Table, needed: Sequence[str], read: Reading, group: Column | None) -> Iterator[Row]:
    first: str | None = None
    for at, row in enumerate(table.rows(needed), 1):
        found = _numbered(read, at, row)
        together = group.of(row) if group else None
        by = found.picture if together is None else str(together)
        for n, (content, segments) in enumerate(found.documents):
            key = _key(row, content, n)
            if by is None:
                first = first or key
                yield from divided(config, int(key != first), table.size, key, segments)
            else:
                first = first or by  # all that is of one group or picture with the first document is held out with it
                yield key, split_of(content_key(by), 0 if by == first else 1, config.held_out), segments


def _numbered(read: Reading, at: int, row: dict[str, Any]) -> Found:
    try:
        return read(row)
    except ValueError as error:
        raise ValueError(f"row {at}: {error}") from error


def _key(row: dict[str, Any], content: str, number: int) -> str:
    """Names of rows are unique within their tar alone."""
    if row.get(_NAME) is None:
        return content_key(content)
    name = f"{PurePosixPath(str(row.get(_TAR, ''))).stem}/{row[_NAME]}"
    return f"{name}#{number + 1}" if number else name


def _text(column: Column, row: dict[str, Any]) -> Found:
    text = string_of(str(column), column.of(row))
    return Found([(text, [{"text": text}])] if text.strip() else [])


def _with_picture(table: Table, image: Column, text: Column, row: dict[str, Any]) -> Found:
    """Pairs of a picture with each of its captions, or an interleaved document."""
    picture, texts = image.of(row), text.of(row)
    if isinstance(picture, list):
        document = interleaved(table.folder, picture, texts)
        return Found([document] if document else [])
    raw, name = picture_of(table.folder, b"" if picture is None else picture, str(image))  # of no bytes: rejected as no picture
    captions = [string_of(str(text), caption).strip() for caption in (texts if isinstance(texts, list) else [texts])]
    pairs: list[tuple[str, Segments]] = [
        (json.dumps([name, caption]), [{"image": raw}, {"text": caption}]) for caption in captions if caption
    ]
    return Found(pairs, name)
