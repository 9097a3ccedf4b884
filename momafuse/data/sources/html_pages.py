"""A user's folder of HTML pages with the pictures that they refer to, sub-folders too: interleaved documents.

A page is a document, in reading order (html_text.py says what of it is read); its key is its path in the folder, and a share
is held out by it, the first one always. Of a long page without pictures stretches are (splitting.py).

Each <img> whose file lies in the folder is a picture there. Addresses are paths from the page on (<base> is passed over), or
from the folder on where they begin with a slash; query and fragment are cut off. Left out are pictures whose file is missing,
lies elsewhere or is no picture to Pillow, and those whose shorter side is below 64 pixels: icons, rules, formulas. None of
these rejects the page; one whose file is cut short does, when it is encoded.

A picture's alternative text is kept where it has two words or more (one is a file's name or `logo`), after the picture, as
captions stand: what leads to a picture is in the prose before it. It is left out where the page has said it by then, which
titles of figures often do, and stands alone in the place of a picture that is left out, as a browser would have it.

Pages without text are left out, and what is no text in its encoding. Pages are parsed as they are asked for, in the order of a
hash of their keys, so that neighbours are a sample of everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from momafuse.config.schema import SourceConfig
from momafuse.data.sources import html_text
from momafuse.data.sources.captions import key_of
from momafuse.data.sources.pictures import picture_size
from momafuse.data.sources.registry import Row, Source, Stream, folder_fingerprint, register, user_folder
from momafuse.data.sources.splitting import split_of, split_text
from momafuse.data.sources.streams import Segments, all_files, unicode_text
from momafuse.errors import UserError

SUFFIXES = {".html", ".htm", ".xhtml"}
LEAST_SIDE = 64
LEAST_WORDS = 2  # of an alternative text


@register("html_pages")
def html_pages(config: SourceConfig) -> Source:
    """Pages with their pictures. Raises UserError where `path` holds no page with text."""
    folder = user_folder(config)
    files = all_files(folder)
    pages = sorted((page_key(folder, path) for path in files if path.suffix.lower() in SUFFIXES), key=_place)
    if not folder.is_dir() or not pages:
        raise UserError(f"path={config.path}: no pages here; give a folder of .html files with their pictures")
    stream = Stream(partial(_rows, folder, pages, config.held_out))
    if next(stream.iter(1), None) is None:
        raise UserError(f"path={config.path}: none of the pages says anything; give pages with text")
    return Source(stream, folder_fingerprint(files, folder), held_out=config.held_out)


def page_key(folder: Path, page: Path) -> str:
    return page.relative_to(folder).as_posix()


def segments_of(folder: Path, page: Path) -> Segments:
    """What the page holds, its pictures by path; none where it says nothing. Raises OSError where it cannot be read."""
    text = html_text.decode(page.read_bytes())
    parts = html_text.read(text) if text is not None else []
    if not any(isinstance(part, str) for part in parts):
        return []
    segments: Segments = []
    said = unsaid = ""  # what stands before the last picture, and behind it
    caption = False  # whether `unsaid` ends with the alternative text of a picture, which ends a line
    for part in parts:
        if isinstance(part, str):
            unsaid += part if not caption or part[0].isspace() else f"\n{part}"
            caption = False
            continue
        picture = find_picture(folder, page, part.address)
        if picture is not None:
            segments += [*_text(unsaid), {"text": None, "image": {"bytes": None, "path": str(picture)}}]
            said, unsaid = said + unsaid, ""
        if len(part.alt.split()) >= LEAST_WORDS and part.alt not in said and part.alt not in unsaid:
            unsaid += part.alt if not unsaid or unsaid[-1].isspace() else f" {part.alt}"
            caption = picture is not None
    return segments + _text(unsaid)


def find_picture(folder: Path, page: Path, address: str) -> Path | None:
    """The picture's file in the folder; None for one that is left out."""
    try:
        parts = urlsplit(address.strip())
    except ValueError:
        return None
    if parts.scheme or parts.netloc or not parts.path:
        return None
    path = unquote(parts.path)
    file = folder / path.lstrip("/") if path.startswith("/") else page.parent / path
    try:
        file = file.resolve()
        return file if file.is_relative_to(folder) and file.is_file() and _shorter_side(file) >= LEAST_SIDE else None
    except (OSError, ValueError):  # a name that the system does not take, a null byte
        return None


@lru_cache(maxsize=4096)  # pages of a manual share pictures
def _shorter_side(file: Path) -> int:
    """0 for what is no picture."""
    return min(picture_size(file) or (0,))


def _text(text: str) -> Segments:
    return [{"text": unicode_text(text.strip()), "image": None}] if text.strip() else []


def _place(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _rows(folder: Path, pages: Sequence[str], share: float) -> Iterator[Row]:
    number = 0
    for name in pages:
        segments = segments_of(folder, folder / name)
        if not segments:
            continue
        key = key_of(folder, folder / name)
        if any(segment["image"] is not None for segment in segments):
            yield key, split_of(key, number, share), segments
        else:
            for part, split, text in split_text(segments[0]["text"], key, number, share):
                yield part, split, [{"text": text, "image": None}]
        number += 1
