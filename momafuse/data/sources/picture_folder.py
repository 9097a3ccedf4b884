"""A user's folder of pictures without captions, in any form that Pillow reads, with those below it.

Where the folder has a subfolder `validation`, the pictures in it are held out and all others are trained on; a deeper one of
that name is a folder like any other. Elsewhere about 2 % are held out, by a hash of the path within the folder, and the first
one always. A picture's key is that path. Pictures are not decoded here.
"""

from __future__ import annotations

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.captions import key_of
from momafuse.data.sources.pictures import is_picture
from momafuse.data.sources.registry import Row, Source, folder_fingerprint, in_memory, register, user_folder
from momafuse.data.sources.splitting import split_of
from momafuse.data.sources.streams import all_files
from momafuse.errors import UserError

HELD_OUT = "validation"  # the subfolder


@register("picture_folder")
def picture_folder(config: SourceConfig) -> Source:
    """A document of one picture each. Raises UserError where there are none, or none in the subfolder `validation`."""
    folder = user_folder(config)
    paths = [path for path in all_files(folder) if is_picture(path)]
    if not paths:
        raise UserError(f"path={config.path}: no pictures in this folder; set it to a folder of pictures")
    divided = (folder / HELD_OUT).is_dir()
    rows: list[Row] = []
    for number, path in enumerate(paths):
        key = key_of(folder, path)
        heldout = key.startswith(f"{HELD_OUT}/") if divided else split_of(key, number, config.held_out) == "validation"
        picture = {"bytes": None, "path": str(path)}
        rows.append((key, "validation" if heldout else "train", [{"text": None, "image": picture}]))
    if divided and not any(split == "validation" for _, split, _ in rows):
        remedy = "put some there, or delete it and about 2 % are held out"
        raise UserError(f"path={config.path}: {folder / HELD_OUT} holds no picture; {remedy}")
    return Source(in_memory(rows), folder_fingerprint(paths, folder), held_out=None if divided else config.held_out)
