"""A user's text: .txt files (a file is a document), .jsonl and .parquet files (a row is a document, column `text`).

Read as a stream through `datasets`, sub-folders too; one folder holds one kind of file. A document's key is the hash
of its text: repeats fall on one side of the split, and adding a file moves no other document. Line ends become \\n
in .txt files; blank documents are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import Source, features, folder_fingerprint, register, split_of, user_folder
from momafuse.errors import UserError

# The `json` loader of datasets wants the same columns in every line of every file, so lines are parsed here.
_LOADERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", {"sample_by": "document"}),
    ".jsonl": ("text", {"sample_by": "line"}),
    ".parquet": ("parquet", {"columns": ["text"]}),
}
_SURROGATE = re.compile("[\ud800-\udfff]")


@register("text_files")
def text_files(config: SourceConfig) -> Source:
    """Text documents in the order of the paths. Raises UserError where `path` holds none or several kinds of files."""
    import datasets

    path = user_folder(config)
    paths = _text_paths(path, config)
    kind = paths[0].suffix
    loader, options = _LOADERS[kind]
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # local files are nobody else's business
    rows = partial(_rows, parse=_text_of_line if kind == ".jsonl" else None)
    with tempfile.TemporaryDirectory() as cache:
        try:
            names = [str(p) for p in paths]
            loaded = datasets.load_dataset(loader, data_files=names, split="train", streaming=True, cache_dir=cache, **options)
            dataset = loaded.map(rows, batched=True, with_indices=True, remove_columns=["text"], features=features())
            next(iter(dataset), None)  # what is wrong with all of the data shows here
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"path={config.path}: cannot read a column text from the files: {reason}") from error
    return Source(dataset, folder_fingerprint(paths, path.parent if path.is_file() else path))


def _text_paths(path: Path, config: SourceConfig) -> list[Path]:
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    paths = [p for p in found if p.suffix in _LOADERS]
    kinds = sorted({p.suffix for p in paths})
    if len(kinds) != 1:
        held = f"files of several kinds ({', '.join(kinds)})" if kinds else "no text"
        raise UserError(f"path={config.path}: {held} here; give a folder of .txt, of .jsonl or of .parquet files")
    return paths


def _rows(batch: dict[str, list[Any]], numbers: list[int], parse: Callable[[str], Any] | None) -> dict[str, list[Any]]:
    texts = [parse(line) if parse else line for line in batch["text"]]
    rows = [(n, _SURROGATE.sub("\ufffd", str(text))) for n, text in zip(numbers, texts, strict=True) if text is not None]
    rows = [(n, text) for n, text in rows if text.strip()]
    keys = [hashlib.sha256(text.encode()).hexdigest()[:24] for _, text in rows]
    return {
        "key": keys,
        "split": [split_of(key, number) for key, (number, _) in zip(keys, rows, strict=True)],
        "segments": [[{"text": text, "image": None}] for _, text in rows],
    }


def _text_of_line(line: str) -> Any:
    if not line.strip():
        return None
    row = json.loads(line)
    if not isinstance(row, dict) or "text" not in row:
        raise ValueError(f'a line without "text": {line[:60]}')
    return row["text"]
