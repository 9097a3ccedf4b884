"""A user's files as one stream of documents through `datasets`: what text_files, conversations and obelics have in common.

`.jsonl` and `.parquet` hold a document a row in named columns, `.txt` a document a file; one folder holds one kind of file,
sub-folders too. A document's key is the hash of its content: repeats fall on one side of the split, and adding a file
moves no other document. Decodes no pictures.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import FEATURE_NAMES, features, split_of, user_folder
from momafuse.errors import UserError

Segments = list[dict[str, Any]]
# A row's values -> the content that its key is a hash of, and its segments; None: left out. ValueError where it is wrong.
Document = Callable[..., tuple[str, Segments] | None]

# The `json` loader of datasets wants the same columns in every line of every file, so lines are parsed here.
_LOADERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", {"sample_by": "document"}),
    ".jsonl": ("text", {"sample_by": "line"}),
    ".parquet": ("parquet", {}),
}
_SURROGATE = re.compile("[\ud800-\udfff]")


def row_files(config: SourceConfig, column: str, suffixes: Sequence[str]) -> list[Path]:
    """The files to read, sorted, all of one of the kinds `suffixes`. Raises UserError where there are none, or of several."""
    paths = [p for p in all_files(user_folder(config)) if p.suffix in suffixes]
    kinds = sorted({p.suffix for p in paths})
    if len(kinds) != 1:
        held = f"files of several kinds ({', '.join(kinds)})" if kinds else f"no {column}"
        known = " or of ".join(filter(None, [", of ".join(suffixes[:-1]), suffixes[-1]]))
        raise UserError(f"path={config.path}: {held} here; give a folder of {known} files")
    return paths


def all_files(path: Path) -> list[Path]:
    """Every file in a folder and its sub-folders, sorted; a file is itself."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def open_rows(config: SourceConfig, paths: Sequence[Path], columns: Sequence[str], document: Document) -> Any:
    """A streamed dataset with `features()`, in the order of `paths`; `document` takes a row's values of `columns`.

    Raises UserError where the first row cannot be read.
    """
    import datasets

    lines = paths[0].suffix == ".jsonl"
    loader, options = _LOADERS[paths[0].suffix]
    loaded_as = list(columns) if loader == "parquet" else ["text"]
    options = options or {"columns": loaded_as}
    rows = partial(_rows, values=loaded_as, read=partial(_read_line, columns, document) if lines else document)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # local files are nobody else's business
    with tempfile.TemporaryDirectory() as cache:
        try:
            names = [str(p) for p in paths]
            loaded = datasets.load_dataset(loader, data_files=names, split="train", streaming=True, cache_dir=cache, **options)
            dataset = loaded.map(rows, batched=True, with_indices=True, remove_columns=loaded_as, features=features())
            next(iter(dataset), None)  # what is wrong with all of the data shows here
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            wanted, reason = " or ".join(columns), " ".join(str(error).split())
            raise UserError(f"path={config.path}: cannot read a column {wanted} from the files: {reason}") from error
    return dataset


def unicode_text(text: str) -> str:
    """With U+FFFD for lone surrogates, which no column can hold."""
    return _SURROGATE.sub("\ufffd", text)


def _rows(batch: dict[str, list[Any]], numbers: list[int], values: list[str], read: Document) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = {name: [] for name in FEATURE_NAMES}
    for number, *row in zip(numbers, *(batch[name] for name in values), strict=True):
        try:
            document = read(*row)
        except ValueError as error:
            raise ValueError(f"row {number + 1}: {error}") from error
        if document is not None:
            content, segments = document
            key = hashlib.sha256(content.encode()).hexdigest()[:24]
            for name, entry in zip(FEATURE_NAMES, (key, split_of(key, number), segments), strict=True):
                made[name].append(entry)
    return made


def _read_line(columns: Sequence[str], document: Document, line: str) -> tuple[str, Segments] | None:
    if not line.strip():
        return None
    row = json.loads(line)
    for column in columns:
        if not isinstance(row, dict) or column not in row:
            raise ValueError(f'a line without "{column}": {line[:60]}')
    return document(*(row[column] for column in columns))
