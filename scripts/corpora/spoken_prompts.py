"""asterisk-core-sounds-en-g722 and the texts of asterisk-core-sounds-en (CC-BY-SA-3.0, recorded by Allison Smith): the prompts
of a telephone exchange in English, one speaker.

OUT gets the sounds as FLAC, 16,000 samples a second, and their texts in `metadata.csv`; one in eight is held out. Tones and
silence are left out. Wants `av` (G.722) and `soundfile`.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

from corpora.metadata import share_of, write_metadata

PACKAGES = ("debian:asterisk-core-sounds-en-g722", "debian:asterisk-core-sounds-en")
SOUNDS = Path("usr/share/asterisk/sounds/en_US_f_Allison")
TEXTS = Path("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
HELD_OUT = 1 / 8
RATE = 16_000
_ASIDE = re.compile(r"\[.*?\]|<.*?>|\(.*?\)")  # what is heard but not said


def write(unpacked: Path, out: Path) -> dict[str, int]:
    """Raises FileNotFoundError where the packages are others."""
    for wanted in (SOUNDS, TEXTS):
        if not (unpacked / wanted).exists():
            raise FileNotFoundError(wanted)
    import soundfile

    rows = []
    for name, text in sorted(texts(unpacked / TEXTS).items()):
        sound = unpacked / SOUNDS / f"{name}.g722"
        if not sound.is_file():
            continue
        split = "validation" if share_of("split", name) < HELD_OUT else "train"
        target = out / f"{name}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, samples(sound), RATE)
        rows.append({"file_name": f"{name}.flac", "text": text, "image": "", "split": split})
    write_metadata(out, rows)
    return {"prompts": len(rows), "held out": sum(row["split"] == "validation" for row in rows)}


def texts(file: Path) -> dict[str, str]:
    """Name -> what is said; lines `name: text`."""
    found = {}
    for line in gzip.decompress(file.read_bytes()).decode("utf-8").splitlines():
        name, is_one, text = line.partition(":")
        said = " ".join(_ASIDE.sub(" ", text).split())
        if is_one and said and not line.startswith(";"):
            found[name.strip()] = said
    return found


def samples(sound: Path) -> Any:
    """(n,) int16."""
    import av
    import numpy as np

    with av.open(str(sound), format="g722") as file:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)])
