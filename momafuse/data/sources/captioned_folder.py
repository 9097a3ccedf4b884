"""A user's folder of pictures with captions: from a table, from a text beside each picture, or from the pictures' names.

captions.py says where they may stand. A table decides where there is one: its captions stand in the column `text` or `caption`,
its column `split` says what is held out (else a share is, by the column `group` or the picture's path), and a picture may have
several rows, each a document. A picture without a row or a caption is left out, and the user is told how many are. The key is
the picture's path, with the row's number from the second on. Pictures are not decoded here; one that is missing or lies in a
damaged archive is rejected when it is encoded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.archives import OTHER_ARCHIVES, Archive
from momafuse.data.sources.captions import TABLES, Found, Picture, by_name, caption_by_name, find, read_table
from momafuse.data.sources.registry import Row, Source, Stream, folder_fingerprint, register, user_folder
from momafuse.data.sources.splitting import SplitName, split_of
from momafuse.data.sources.streams import all_files, unicode_text, with_suffix
from momafuse.errors import UserError

_CAPTIONS = ("text", "caption")
_HELD_OUT: SplitName = "validation"
SPLITS: dict[str, SplitName] = {"train": "train", **dict.fromkeys(("validation", "valid", "val", "dev", "test"), _HELD_OUT)}
Document = tuple[str, SplitName, Picture, str]  # key, split, picture and caption


@register("captioned_folder")
def captioned_folder(config: SourceConfig) -> Source:
    """Pairs of picture and caption in the order of the paths. Raises UserError where there are no pictures or captions."""
    folder = user_folder(config)
    files = all_files(folder)
    notes = [f"{path.name}: archives of this kind are not read; unpack it" for path in with_suffix(files, OTHER_ARCHIVES)]
    try:
        found = find(folder, files)
        if not found.pictures:
            raise UserError(f"path={config.path}: no pictures in this folder; set it to a folder of pictures")
        rows = {name: _read(config, name, data()) for name, data in found.tables.items()}
        documents = list(_by_table(config, folder, found, rows) if rows else _by_themselves(config, found))
    except (OSError, ValueError) as error:
        raise UserError(f"path={config.path}: {' '.join(str(error).split())}") from error
    if not documents:
        raise UserError(
            f"path={config.path}: no captions; write {TABLES[0]} with the columns file_name,text into the folder, "
            "or NAME.txt beside each picture"
        )
    silent = set(found.pictures) - {picture for _, _, picture, _ in documents}
    if silent:
        lacking = "a row in a table" if rows else "a caption beside it or a name that says what it is"
        count = f"{len(silent)} of {len(found.pictures)} pictures"
        notes.append(f"{count} are left out, without {lacking}; the first is {min(silent).key}")
    drawn = not any(row["split"] for table in rows.values() for row in table)
    stream, fingerprint = Stream(lambda: _rows(documents), len(documents)), folder_fingerprint(files, folder)
    return Source(stream, fingerprint, held_out=config.held_out if drawn else None, notes=tuple(notes))


def _rows(documents: Iterable[Document]) -> Iterator[Row]:
    archives: dict[Path, Archive] = {}
    for key, split, picture, caption in documents:
        image: dict[str, Any] = {"bytes": None, "path": str(picture.path)}
        if picture.member is not None:
            if picture.path not in archives:
                archives[picture.path] = Archive(picture.path)
            try:
                image = {"bytes": archives[picture.path].read(picture.member), "path": None}
            except OSError as error:
                image = {"bytes": None, "path": str(error)}  # rejected by the encoder, which finds no such file
        yield key, split, [{"image": image}, {"text": caption}]


def _by_table(config: SourceConfig, folder: Path, found: Found, tables: dict[str, list[dict[str, Any]]]) -> Iterator[Document]:
    known = by_name(found.pictures)
    rows: defaultdict[Picture, list[dict[str, Any]]] = defaultdict(list)
    for name, table in tables.items():
        below = PurePosixPath(name).parent
        for row in table:
            key = (below / str(row["file"])).as_posix()
            if key not in known and "\\" in key:  # written under Windows
                key = key.replace("\\", "/")
            rows[known.get(key) or Picture(key, folder / key)].append(row)
    seen: Counter[str] = Counter()
    first = next((row["group"] or p.key for p in sorted(rows) for row in rows[p]), "")
    for picture in sorted(rows):
        for row in rows[picture]:
            together = row["group"] or picture.key
            split = row["split"] or split_of(together, int(together != first), config.held_out)
            key = f"{picture.key}#{seen[picture.key] + 1}" if seen[picture.key] else picture.key
            seen[picture.key] += 1
            yield key, split, picture, unicode_text(row["caption"])


def _read(config: SourceConfig, name: str, data: bytes) -> list[dict[str, Any]]:
    """Rows as `file`, `caption`, `split` and `group`, of which the last two may be None. UserError that names the remedy."""
    try:
        rows = read_table(name, data)
    except ValueError as error:
        raise UserError(f"path={config.path}: {name}: {error}; write it as CSV, JSON lines or parquet") from error
    columns = dict.fromkeys(column for row in rows for column in row)
    file = _column(config, name, columns, "image", ("file_name",))
    caption = _column(config, name, columns, "caption", _CAPTIONS)
    group = None if config.group is None else _column(config, name, columns, "group", ())
    found = []
    for number, row in enumerate(rows):
        split, series = row.get("split") or None, None if group is None else row.get(group)
        if split is not None and split not in SPLITS:
            problem = f"row {number + 1}: split={split}; write train or validation"
            raise UserError(f"path={config.path}: {name}: {problem}")
        if not row.get(file):
            raise UserError(f"path={config.path}: {name}: row {number + 1} has no {file}; give it one")
        told = {"file": row[file], "caption": str(row.get(caption) or ""), "split": split and SPLITS[split]}
        found.append(told | {"group": None if series in (None, "") else str(series)})
    return found


def _column(config: SourceConfig, table: str, columns: Iterable[str], key: str, usual: tuple[str, ...]) -> str:
    asked = getattr(config, key)
    name = next((name for name in ((asked,) if asked else usual) if name in columns), None)
    if name is None:
        wanted = asked or " or ".join(usual)
        raise UserError(
            f"path={config.path}: {table} has no column {wanted}; it has {', '.join(columns)}: name one by {key}=COLUMN"
        )
    return name


def _by_themselves(config: SourceConfig, found: Found) -> Iterator[Document]:
    """By the text beside each picture where any has one, else by their names."""
    captions = {picture: found.caption(picture) for picture in found.pictures}
    if not any(captions.values()):
        captions = {picture: caption_by_name(picture.key) for picture in found.pictures}
    for number, picture in enumerate(p for p in found.pictures if captions[p]):
        yield picture.key, split_of(picture.key, number, config.held_out), picture, unicode_text(captions[picture] or "")
