"""A user's folder of pictures with captions: from a table, from a text beside each picture, or from the pictures' names.

captions.py says where they may stand. A table decides where there is one: its captions stand in the column `text` or
`caption`, its column `split` says what is held out (else a share is, by the picture's path or by the column `group`), and a
picture may have several rows, each a document. A picture without a row or a caption is left out, and the user is told how
many are. The key is the picture's path, with the row's number from the second on. Pictures are not decoded here; one that is
missing is rejected when it is encoded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.captions import (
    OTHER_ARCHIVES,
    TABLES,
    Archives,
    Picture,
    caption_beside,
    caption_by_name,
    find_pictures,
    is_table,
    read_table,
)
from momafuse.data.sources.registry import Row, Source, Stream, folder_fingerprint, register, user_folder
from momafuse.data.sources.splitting import SplitName, split_of
from momafuse.data.sources.streams import all_files, unicode_text, with_suffix
from momafuse.errors import UserError

_CAPTIONS = ("text", "caption")
_HELD_OUT: SplitName = "validation"
_SPLITS: dict[str, SplitName] = {"train": "train", **dict.fromkeys(("validation", "valid", "val", "dev", "test"), _HELD_OUT)}
Document = tuple[str, SplitName, Picture, str]  # key, split, picture and caption


@register("captioned_folder")
def captioned_folder(config: SourceConfig) -> Source:
    """Pairs of picture and caption in the order of the paths. Raises UserError where there are no pictures or captions."""
    folder = user_folder(config)
    files = all_files(folder)
    try:
        pictures = sorted(find_pictures(folder, files))
        tables = [file for file in files if is_table(file)]
        notes = [f"{path.name}: archives of this kind are not read; unpack it" for path in with_suffix(files, OTHER_ARCHIVES)]
        if not pictures:
            raise UserError(f"path={config.path}: no pictures in this folder; set it to a folder of pictures")
        told = _by_table(config, folder, pictures, tables) if tables else _by_themselves(config, pictures)
    except (OSError, ValueError) as error:
        raise UserError(f"path={config.path}: {' '.join(str(error).split())}") from error
    documents, silent = list(told), set(pictures)
    silent -= {picture for _, _, picture, _ in documents}
    if not documents:
        raise UserError(
            f"path={config.path}: no captions; write {TABLES[0]} with the columns file_name,text into the folder, "
            "or NAME.txt beside each picture"
        )
    if silent:
        lacking = "a row in a table" if tables else "a caption beside it or a name that says what it is"
        notes.append(
            f"{len(silent)} of {len(pictures)} pictures are left out, without {lacking}; the first is {min(silent).key}"
        )
    stream = Stream(lambda: _rows(documents), len(documents))
    return Source(stream, folder_fingerprint(files, folder), notes=tuple(notes))


def _rows(documents: Iterable[Document]) -> Iterator[Row]:
    archives = Archives()
    for key, split, picture, caption in documents:
        data = None if picture.member is None else archives.read(picture.path, picture.member)
        image = {"bytes": data, "path": None if data is not None else str(picture.path)}
        yield key, split, [{"image": image}, {"text": caption}]


def _by_table(config: SourceConfig, folder: Path, pictures: list[Picture], tables: list[Path]) -> Iterator[Document]:
    known = {name: picture for picture in pictures for name in picture.names}
    rows: defaultdict[Picture, list[dict[str, Any]]] = defaultdict(list)
    for table in tables:
        below = table.parent.relative_to(folder)
        for row in _read(config, table):
            key = (below / str(row["file"])).as_posix()
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


def _read(config: SourceConfig, table: Path) -> list[dict[str, Any]]:
    """Rows as `file`, `caption`, `split` and `group`, of which the last two may be None. Raises UserError, naming the
    remedy."""
    try:
        rows = read_table(table)
    except ValueError as error:
        raise UserError(f"path={config.path}: {table.name}: {error}; write it as CSV, JSON lines or parquet") from error
    columns = dict.fromkeys(name for row in rows for name in row)
    file = _column(config, table, columns, "image", ("file_name",))
    caption = _column(config, table, columns, "caption", _CAPTIONS)
    group = None if config.group is None else _column(config, table, columns, "group", ())
    found = []
    for number, row in enumerate(rows):
        split = row.get("split") or None
        if split is not None and split not in _SPLITS:
            known = "train or validation"
            raise UserError(f"path={config.path}: {table.name}: row {number + 1}: split={split}; write {known}")
        if not row.get(file):
            raise UserError(f"path={config.path}: {table.name}: row {number + 1} has no {file}; give it one")
        told = {
            "file": row[file],
            "caption": str(row.get(caption) or ""),
            "group": None if group is None else str(row.get(group)),
        }
        found.append(told | {"split": None if split is None else _SPLITS[split]})
    return found


def _column(config: SourceConfig, table: Path, columns: Iterable[str], key: str, usual: tuple[str, ...]) -> str:
    asked = getattr(config, key)
    name = next((name for name in ((asked,) if asked else usual) if name in columns), None)
    if name is None:
        wanted = asked or " or ".join(usual)
        raise UserError(
            f"path={config.path}: {table.name} has no column {wanted}; it has {', '.join(columns)}: name one by {key}=COLUMN"
        )
    return name


def _by_themselves(config: SourceConfig, pictures: list[Picture]) -> Iterator[Document]:
    """By the text beside each picture where any has one, else by their names."""
    beside = {p: caption_beside(p.path) for p in pictures if p.member is None}
    if not any(beside.values()):
        beside = {p: caption_by_name(p.key) for p in pictures}
    for number, picture in enumerate(p for p in pictures if beside.get(p)):
        yield picture.key, split_of(picture.key, number, config.held_out), picture, unicode_text(beside[picture] or "")
