"""The embedded starter pack as two sources: captioned pictures and word glosses (text only).

`momafuse/assets/starter-1` holds a zip of WebP pictures, their captions and the glosses (NOTICE there names the
origins); the split is the pack's own, by groups of near-duplicates. The documents come in the order of a hash of
their keys, not in the pack's, so that neighbours are a sample of everything. The files are checked against the pack's
manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import zipfile
from importlib.resources import files
from typing import Any

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import Row, Source, in_memory, register
from momafuse.data.sources.splitting import SplitName
from momafuse.errors import UserError

PACK = "starter-1"


@register("starter_pictures")
def starter_pictures(config: SourceConfig) -> Source:
    """A pair of picture and caption each."""
    lines, data = _texts("captions.jsonl.xz"), _read("pictures.zip")
    rows: list[Row] = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for line in lines:
            entry = json.loads(line)
            picture = {"bytes": archive.read(f"{entry['number']:05d}.webp"), "path": None}
            segments = [{"text": None, "image": picture}, {"text": entry["caption"], "image": None}]
            rows.append((entry["key"], entry["split"], segments))
    return _source(rows)


@register("starter_glosses")
def starter_glosses(config: SourceConfig) -> Source:
    """A text "word: gloss" each."""
    rows: list[Row] = []
    parts: tuple[tuple[SplitName, str], ...] = (("train", "glosses.txt.xz"), ("validation", "glosses_validation.txt.xz"))
    for split, name in parts:
        for number, line in enumerate(_texts(name)):
            rows.append((f"wordnet/{split}/{number}", split, [{"text": line, "image": None}]))
    return _source(rows)


def _source(rows: list[Row]) -> Source:
    return Source(in_memory(rows), _manifest()["pack_sha256"])


def _texts(name: str) -> list[str]:
    return lzma.decompress(_read(name)).decode("utf-8").splitlines()


def _read(name: str) -> bytes:
    data = files("momafuse").joinpath("assets", PACK, name).read_bytes()
    if hashlib.sha256(data).hexdigest() != _manifest()["files"][name]["sha256"]:
        raise UserError(f"reader: {name} of the embedded pack {PACK} is damaged; install momafuse again")
    return data


def _manifest() -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(files("momafuse").joinpath("assets", PACK, "manifest.json").read_text("utf-8"))
    return manifest
