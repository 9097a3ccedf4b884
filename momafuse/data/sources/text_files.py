"""A user's text: .txt files (a file is a document), .jsonl and .parquet files (a row is a document, column `text`).

Read as a stream through `datasets`, sub-folders too; one folder holds one kind of file. A document's key is the hash
of its text: repeats fall on one side of the split, and adding a file moves no other document. Line ends become \\n
in .txt files; blank documents are left out.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from momafuse.config.errors import UserError
from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import Source, features, folder_fingerprint, register, split_of, user_folder

_LOADERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", {"sample_by": "document"}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}


@register("text_files")
def text_files(config: SourceConfig) -> Source:
    """Text documents in the order of the paths. Raises UserError where `path` holds none or several kinds of files."""
    import datasets

    path = user_folder(config)
    paths = _text_paths(path, config)
    loader, options = _LOADERS[paths[0].suffix]
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # local files are nobody else's business
    with tempfile.TemporaryDirectory() as cache:
        try:
            names = [str(p) for p in paths]
            loaded = datasets.load_dataset(loader, data_files=names, split="train", streaming=True, cache_dir=cache, **options)
            columns = loaded.column_names or list(next(iter(loaded), {}))
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            raise UserError(f"path={config.path}: cannot read the files: {' '.join(str(error).split())}") from error
    if "text" not in columns:
        raise UserError(f"path={config.path}: the files have no column named text; they have {', '.join(columns) or 'no rows'}")
    dataset = loaded.map(_rows, batched=True, with_indices=True, remove_columns=columns, features=features())
    return Source(dataset, folder_fingerprint(paths, path.parent if path.is_file() else path))


def _text_paths(path: Path, config: SourceConfig) -> list[Path]:
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    paths = [p for p in found if p.suffix in _LOADERS]
    kinds = sorted({p.suffix for p in paths})
    if len(kinds) != 1:
        held = f"files of several kinds ({', '.join(kinds)})" if kinds else "no text"
        raise UserError(f"path={config.path}: {held} here; give a folder of .txt, of .jsonl or of .parquet files")
    return paths


def _rows(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
    rows = [(n, str(text)) for n, text in zip(numbers, batch["text"], strict=True) if text is not None and str(text).strip()]
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24] for _, text in rows]
    return {
        "key": keys,
        "split": [split_of(key, number) for key, (number, _) in zip(keys, rows, strict=True)],
        "segments": [[{"text": text, "image": None}] for _, text in rows],
    }
