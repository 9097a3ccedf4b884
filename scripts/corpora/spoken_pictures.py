"""tuxpaint-stamps-default (GPL-2): drawings and photographs, a sentence about each, spoken in eleven languages.

OUT gets `triples` (picture, sentence and speech, of half of the pictures), `spoken` (sentence and speech, of the others) and
`texts.jsonl` (the sentences in all languages of the pictures to train on). A picture is held out with all that is said of it,
one in twenty.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from corpora.metadata import TRAIN, share_of, side_of, write_metadata

PACKAGES = ("debian:tuxpaint-stamps-default",)
STAMPS = Path("usr/share/tuxpaint/stamps")
_SOUND = re.compile(r"(.+)_desc(?:_([A-Za-z_]+))?\.ogg")


def sentences(text: Path) -> dict[str, str]:
    """Language -> sentence of a stamp: English first, then lines LANG.utf8=..."""
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    found = {"en": lines[0].strip()} if lines else {}
    for line in lines[1:]:
        name, is_one, sentence = line.partition(".utf8=")
        if is_one and sentence.strip():
            found[name] = sentence.strip()
    return {language: sentence for language, sentence in found.items() if sentence}


def write(unpacked: Path, out: Path) -> dict[str, int]:
    """Raises FileNotFoundError where the package is another."""
    root = unpacked / STAMPS
    if not root.is_dir():
        raise FileNotFoundError(STAMPS)
    rows: dict[str, list[dict[str, str]]] = {"triples": [], "spoken": []}
    texts: list[str] = []
    for text in sorted(root.rglob("*.txt")):
        picture, stamp, said = text.with_suffix(".png"), text.relative_to(root).with_suffix("").as_posix(), sentences(text)
        split = side_of(stamp)
        if split == TRAIN:
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
        write_metadata(out / kind, found)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in dict.fromkeys(texts))
    (out / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    return {kind: len(found) for kind, found in rows.items()} | {"sentences": len(dict.fromkeys(texts))}


def copy(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
