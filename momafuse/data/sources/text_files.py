"""A user's text: .txt and .md files (a file is a document), .jsonl and .parquet files (a row is one, column `text`).

    text_files   every such file of a folder
    loose_texts  those of a folder that are neither captions of a picture beside them nor tables of captions; may be none

Line ends become \\n in .txt files; blank documents are left out. streams.py says how files become documents, splitting.py
what of long ones is held out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.captions import is_caption, is_table
from momafuse.data.sources.pictures import is_picture
from momafuse.data.sources.registry import Source, folder_fingerprint, register, user_folder
from momafuse.data.sources.streams import (
    LINES,
    PARQUET,
    PLAIN,
    Segments,
    all_files,
    read_rows,
    row_files,
    string_of,
    with_suffix,
)

KINDS = (*PLAIN, *LINES, *PARQUET)


@register("text_files")
def text_files(config: SourceConfig) -> Source:
    """Text documents in the order of the paths. Raises UserError where `path` holds none."""
    column = config.text or "text"
    return read_rows(config, row_files(config, "text", KINDS), [column], partial(_document, column))


@register("loose_texts")
def loose_texts(config: SourceConfig) -> Source:
    """The same of a folder that holds pictures, too."""
    folder = user_folder(config)
    files = all_files(folder)
    pictures = {path.with_suffix("") for path in files if is_picture(path)}
    paths = [p for p in with_suffix(files, KINDS) if not is_table(p) and not is_caption(p, pictures)]
    column = config.text or "text"
    opened = read_rows(config, paths, [column], partial(_document, column))
    return replace(opened, may_be_empty=True, fingerprint=folder_fingerprint(paths, folder))


def _document(column: str, value: Any) -> tuple[str, Segments] | None:
    text = string_of(column, value)
    return (text, [{"text": text}]) if text.strip() else None
