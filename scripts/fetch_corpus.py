"""Brings a corpus that a Debian package holds, as folders that momafuse reads.

    python scripts/fetch_corpus.py spoken_pictures [OUT] [--package FILE.deb]

`spoken_pictures` is tuxpaint-stamps-default (GPL-2): drawings and photographs, a sentence about each, spoken in eleven
languages. OUT (default: spoken_pictures) gets `triples` (picture, sentence and speech, of half of the pictures), `spoken`
(sentence and speech, of the others) and `texts.jsonl` (the sentences in all languages of the pictures to train on). A picture
is held out with all that is said of it, one in twenty. Without --package the package comes by `apt-get download`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "tuxpaint-stamps-default"
STAMPS = Path("usr/share/tuxpaint/stamps")
HELD_OUT = 0.05
_SOUND = re.compile(r"(.+)_desc(?:_([A-Za-z_]+))?\.ogg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=["spoken_pictures"])
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--package", type=Path, help="the package's file, if it is here already")
    asked = parser.parse_args()
    out: Path = asked.out or Path(asked.corpus)
    if out.exists():
        sys.exit(f"fetch_corpus: {out} exists; delete it or name another folder")
    with tempfile.TemporaryDirectory() as room:
        root = unpack(asked.package or download(Path(room)), Path(room)) / STAMPS
        if not root.is_dir():
            sys.exit(f"fetch_corpus: {asked.package} holds no {STAMPS}; give the file of {PACKAGE}")
        aside = out.with_name(out.name + ".part")
        shutil.rmtree(aside, ignore_errors=True)
        counts = write(root, aside)
        aside.rename(out)
    print(f"{out}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()))


def download(room: Path) -> Path:
    try:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=room, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"fetch_corpus: apt-get download {PACKAGE} failed ({error}); fetch it elsewhere and name it by --package")
    return next(room.glob("*.deb"))


def unpack(package: Path, room: Path) -> Path:
    try:
        subprocess.run(["dpkg-deb", "-x", str(package), str(room / "x")], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"fetch_corpus: --package={package}: cannot be unpacked ({error}); give the file of {PACKAGE}")
    return room / "x"


def sentences(text: Path) -> dict[str, str]:
    """Language -> sentence of a stamp: English first, then lines LANG.utf8=..."""
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    found = {"en": lines[0].strip()} if lines else {}
    for line in lines[1:]:
        name, is_one, sentence = line.partition(".utf8=")
        if is_one and sentence.strip():
            found[name] = sentence.strip()
    return {language: sentence for language, sentence in found.items() if sentence}


def share_of(kind: str, stamp: str) -> float:
    """In [0, 1), the same for all that belongs to a stamp."""
    return int.from_bytes(hashlib.sha256(f"{kind}:{stamp}".encode()).digest()[:8]) / 2**64


def write(root: Path, out: Path) -> dict[str, int]:
    rows: dict[str, list[dict[str, str]]] = {"triples": [], "spoken": []}
    texts: list[str] = []
    for text in sorted(root.rglob("*.txt")):
        picture, stamp, said = text.with_suffix(".png"), text.relative_to(root).with_suffix("").as_posix(), sentences(text)
        split = "validation" if share_of("split", stamp) < HELD_OUT else "train"
        if split == "train":
            texts += said.values()
        kind = "triples" if picture.is_file() and share_of("kind", stamp) < 0.5 else "spoken"
        for sound in sorted(text.parent.glob(f"{text.stem}_desc*.ogg")):
            match = _SOUND.fullmatch(sound.name)
            language = (match[2] or "en") if match and match[1] == text.stem else ""
            if language not in said or not sound.stat().st_size:
                continue
            row = {"file_name": f"{stamp}_{language}.ogg", "text": said[language], "image": "", "split": split}
            copy(sound, out / kind / row["file_name"])
            if kind == "triples":
                row["image"] = f"{stamp}.png"
                copy(picture, out / kind / row["image"])
            rows[kind].append(row)
    for kind, found in rows.items():
        with (out / kind / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", "text", "image", "split"])
            writer.writeheader()
            writer.writerows(found)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in dict.fromkeys(texts))
    (out / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    return {kind: len(found) for kind, found in rows.items()} | {"sentences": len(dict.fromkeys(texts))}


def copy(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
