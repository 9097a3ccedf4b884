"""A user's text: .txt files (a file is a document), .jsonl and .parquet files (a row is a document, column `text`).

Line ends become \\n in .txt files; blank documents are left out. streams.py says how files become documents.
"""

from __future__ import annotations

from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import Source, folder_fingerprint, register, user_folder
from momafuse.data.sources.streams import Segments, open_rows, row_files, unicode_text

_KINDS = (".txt", ".jsonl", ".parquet")


@register("text_files")
def text_files(config: SourceConfig) -> Source:
    """Text documents in the order of the paths. Raises UserError where `path` holds none or several kinds of files."""
    path, paths = user_folder(config), row_files(config, "text", _KINDS)
    dataset = open_rows(config, paths, ["text"], _document)
    return Source(dataset, folder_fingerprint(paths, path.parent if path.is_file() else path))


def _document(value: Any) -> tuple[str, Segments] | None:
    text = unicode_text("" if value is None else str(value))
    return (text, [{"text": text, "image": None}]) if text.strip() else None
