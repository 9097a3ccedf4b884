"""Photographs to train an image tokenizer on, from desktop backgrounds: squares of 256 pixels that do not overlap.

    mate-backgrounds             GPL-2 or later; those of its folder `nature`
    lomiri-wallpapers-16.04      CC-BY-4.0, CC-BY-SA-4.0 and CC0-1.0, as its copyright file says of each
    lomiri-wallpapers-20.04      CC-BY-SA-3.0
    plasma-workspace-wallpapers  GPL-2 or later

OUT/train/PHOTOGRAPH/NNN.jpg and OUT/validation/..: four photographs of three packages are held out, whole. Squares are cut at
full and at half size, at most 150 of a photograph, evenly spread. What shows next to nothing (sky, blurred ground) is left out,
and so are the packages' drawings, paintings and gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from corpora.held_out import Pictures
from corpora.metadata import TRAIN, VALIDATION
from PIL import Image

from momafuse.data.progress import Progress

PACKAGES = (
    "debian:mate-backgrounds",
    "debian:lomiri-wallpapers-16.04",
    "debian:lomiri-wallpapers-20.04",
    "debian:plasma-workspace-wallpapers",
)
SIDE = 256
MOST = 150  # squares of one photograph
QUALITY = 95
LEAST_CHANGE = 1.0  # see `change`
MATE = Path("usr/share/backgrounds/mate/nature")
LOMIRI = Path("usr/share/backgrounds")
PLASMA = Path("usr/share/wallpapers")
# Looked at one by one: what else is in the packages was not taken by a camera.
NAMES = {
    MATE: "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower",
    LOMIRI: """Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace
        Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi
        greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi
        seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi Kleiber_by_Lukas_Baubkus""",
    PLASMA: """BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path
        summer_1am""",
}
HELD_OUT = {"Dune", "life_by_Aitzol_Berasategi", "Picture_1A_by_freespace", "EveningGlow"}


def write(unpacked: Path, out: Path) -> dict[str, int]:
    """Raises FileNotFoundError where a package is missing."""
    files = {name: unpacked / file for name, file in photographs().items()}
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(file.relative_to(unpacked))
    written = Pictures()
    with Progress() as progress:
        progress.source("photographs", len(files), 0)
        for name, file in files.items():
            side = VALIDATION if name in HELD_OUT else TRAIN
            folder = out / side / name
            folder.mkdir(parents=True)
            for number, square in enumerate(squares(file)):
                target = folder / f"{number:03d}.jpg"
                square.save(target, quality=QUALITY, subsampling=0)
                written.add(target, side)
            progress.advance(1)
    return written.settle(out) | {"photographs": len(files)}


def photographs() -> dict[str, Path]:
    """Name -> file in its package."""
    files = {name: root / f"{name}.jpg" for root in (MATE, LOMIRI) for name in NAMES[root].split()}
    return files | {name: PLASMA / name / "contents/images/2560x1600.jpg" for name in NAMES[PLASMA].split()}


def squares(file: Path) -> list[Image.Image]:
    """What a photograph gives, at full size first, in rows."""
    with Image.open(file) as image:
        full = image.convert("RGB")
    half = full.resize((full.width // 2, full.height // 2), Image.Resampling.LANCZOS)
    found = [square for size in (full, half) for square in _grid(size) if change(square) >= LEAST_CHANGE]
    taken = min(MOST, len(found))
    return [found[number * len(found) // taken] for number in range(taken)]


def change(square: Image.Image) -> float:
    """Mean step, in grey levels of 255, from a cell of 4 x 4 pixels to its neighbours: below 1 for sky and blurred ground."""
    grey = np.asarray(square.reduce(4).convert("L"), dtype=np.int16)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2


def _grid(image: Image.Image) -> Iterator[Image.Image]:
    """All squares that fit, around the middle."""
    columns, rows = image.width // SIDE, image.height // SIDE
    left, top = (image.width - columns * SIDE) // 2, (image.height - rows * SIDE) // 2
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * SIDE, top + row * SIDE
            yield image.crop((x, y, x + SIDE, y + SIDE))
