"""Folders of pictures, as a user has them, for a run that trains the image tokenizer: no captions, any form that Pillow reads.

Where a folder has a subfolder `validation`, the pictures in it are held out and all others are trained on; a deeper one of that
name is a folder like any other. Elsewhere about 2 % are held out, by a hash of the path within the folder, and the first one
always, as in a corpus. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from momafuse.data.progress import Progress
from momafuse.data.sources.registry import split_of
from momafuse.errors import UserError
from momafuse.vision.codec import decode_picture
from momafuse.vision.pictures import PictureSet

Reject = tuple[Path, str]  # what cannot be used, and why
HELD_OUT = "validation"  # the subfolder
THREADS = 4  # decoders: most of their time is in Pillow's C code


def load_folders(folders: Sequence[str], size: int) -> tuple[PictureSet, list[Reject]]:
    """Every picture in the folders and those below them, `size` pixels a side; its kind is its folder, its title its path.

    Raises UserError for a folder that is missing, or without any picture, or with none in its subfolder `validation`.
    """
    pictures, titles, kinds, heldout = [], [], [], []
    rejects: list[Reject] = []
    with Progress() as progress, ThreadPoolExecutor(THREADS) as pool:
        for folder in folders:
            root = Path(folder).expanduser()
            paths = list(_files(root))
            divided = (root / HELD_OUT).is_dir()
            progress.source(folder, len(paths), 0)
            known = 0
            for path, found in zip(paths, pool.map(lambda path: _decoded(path, size), paths), strict=True):
                progress.advance(1)
                if isinstance(found, str):
                    rejects.append((path, found))
                    continue
                key = path.relative_to(root).as_posix().encode("utf-8", "replace").decode()  # names need not be UTF-8
                pictures.append(found)
                titles.append(key)
                kinds.append(folder)
                heldout.append(key.startswith(f"{HELD_OUT}/") if divided else split_of(key, known) == "validation")
                known += 1
            if not known:
                first = next((f"; the first of {len(rejects)}: {path} ({reason})" for path, reason in rejects), "")
                raise UserError(f"tokenizer.folders: {folder} holds no picture that can be used{first}")
            if divided and not any(heldout[-known:]):
                remedy = "put some there, or delete it and about 2 % are held out"
                raise UserError(f"tokenizer.folders: {root / HELD_OUT} holds no picture that can be used; {remedy}")
    return PictureSet(torch.stack(pictures), titles, kinds, torch.tensor(heldout)), rejects


def _files(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        remedy = "python scripts/fetch_corpus.py --help names some to fetch"
        raise UserError(f"tokenizer.folders: {root}: no such folder; {remedy}")
    suffixes = set(Image.registered_extensions())
    yield from (path for path in sorted(root.rglob("*")) if path.suffix.lower() in suffixes and path.is_file())


def _decoded(path: Path, size: int) -> torch.Tensor | str:
    """The picture, or why it cannot be used."""
    try:
        return decode_picture(path.read_bytes(), size)
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
