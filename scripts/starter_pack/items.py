"""Finds the captioned pictures in the unpacked packages: concrete Open Clip Art and Fluent emoji.

No pictures are decoded here; see `pictures.py`.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starter_pack import rules

# Groups 8 and 9 show signs rather than things: kept for their colours and shapes, to be left out of naming tests.
EMOJI_GROUP_NAMES = {
    0: "smileys",
    1: "people and body",
    3: "animals and nature",
    4: "food",
    5: "travel and places",
    6: "activities",
    7: "objects",
    8: "symbols",
    9: "flags",
}


@dataclass(frozen=True)
class Item:
    """A picture file and its words. `folder` is the clip art's top folder or the emoji's group name."""

    key: str
    picture: Path
    folder: str
    emoji_group: int | None
    title: str
    keywords: tuple[str, ...]
    description: str

    @property
    def source(self) -> str:
        return self.key.partition("/")[0]

    @property
    def caption(self) -> str:
        return rules.make_caption(self.title, self.keywords, self.description)


def _local_name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _child_text(work: ElementTree.Element, name: str) -> list[str]:
    """All texts under the children of `work` that have this name, entries of lists one by one."""
    found: list[str] = []
    for child in work:
        if _local_name(child) == name:
            entries = [e for e in child.iter() if _local_name(e) == "li"] or [child]
            found += ["".join(entry.itertext()) for entry in entries]
    return [text for text in found if text.strip()]


def read_metadata(svg: Path) -> tuple[str, list[str], str, str]:
    """Title, keywords, description and author of an SVG's Work element, as they stand there; empty where missing."""
    text = svg.read_text(encoding="utf-8", errors="replace")
    try:
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except ElementTree.ParseError:
        return "", [], "", ""
    work = next((element for element in root.iter() if _local_name(element) == "Work"), None)
    if work is None:
        return "", [], "", ""
    first = [(_child_text(work, name) or [""])[0] for name in ("title", "description", "creator")]
    return first[0], _child_text(work, "subject"), first[1], first[2].strip()


def clip_art(png_root: Path, svg_root: Path, blocked: rules.BlockList, dropped: Counter[str]) -> Iterator[Item]:
    """The clip art that the folder, word and key rules take, in sorted order of the SVG tree.

    Paths that are links to one file count once; what is left out is counted in `dropped` by reason.
    """
    real_png_root = png_root.resolve()
    aliases: dict[Path, list[str]] = defaultdict(list)
    for png in sorted(png_root.rglob("*.png")):
        aliases[png.resolve()].append(png.relative_to(png_root).as_posix())
    seen: set[Path] = set()
    for name in sorted(svg.relative_to(svg_root).as_posix() for svg in svg_root.rglob("*.svg")):
        path = name.removesuffix(".svg")
        picture = (real_png_root / f"{path}.png").resolve()
        if not rules.is_taken(name) or not picture.exists():
            continue
        if picture in seen:
            dropped["repeated path"] += 1
            continue
        seen.add(picture)
        if any(rules.is_forbidden_alias(alias) for alias in aliases[picture]):
            dropped["forbidden alias"] += 1
            continue
        raw_title, raw_keywords, raw_description, author = read_metadata(svg_root / name)
        title = rules.choose_title(raw_title, path, author)
        keywords = rules.clean_keywords(raw_keywords)
        description = rules.clean_description(raw_description, title)
        key = f"openclipart/{path}"
        if rules.has_blocked_keyword(path, [rules.repair_text(word).lower() for word in raw_keywords]):
            dropped["keyword"] += 1
        elif rules.has_block_word(key, title, *keywords, description):
            dropped["block word"] += 1
        elif key in blocked:
            dropped["key"] += 1
        else:
            yield Item(key, picture, path.partition("/")[0], None, title, tuple(keywords), description)


def emoji_code(name: str) -> str:
    """Code points as names are compared by: lower case, without the sign that asks for a coloured picture."""
    return "-".join(part for part in name.lower().split("-") if part != "fe0f")


def emoji(
    picture_folder: Path, data_file: Path, blocked: rules.BlockList, dropped: Counter[str], *, skin_tones: bool = False
) -> Iterator[Item]:
    """The base emoji, and all `skin_tones` of them where asked, in sorted order of their code points."""
    entries = emoji_entries(data_file, skin_tones=skin_tones)
    pictures = {emoji_code(path.stem): path for path in sorted(picture_folder.glob("*.webp"))}
    for name in sorted(pictures.keys() & entries.keys()):
        entry = entries[name]
        key = f"fluent3d/{name}"
        if key in blocked:
            dropped["key"] += 1
            continue
        if "group" not in entry:
            dropped["emoji without a group"] += 1
            continue
        title = rules.repair_text(entry["label"])
        keywords = tuple(tag for tag in entry.get("tags", ()) if tag != title)[:6]
        group = int(entry["group"])
        yield Item(key, pictures[name], EMOJI_GROUP_NAMES[group], group, title, keywords, "")


def emoji_entries(data_file: Path, *, skin_tones: bool) -> dict[str, dict[str, Any]]:
    """What emojibase knows, by `emoji_code`; a skin tone has the tags of its base."""
    entries: dict[str, dict[str, Any]] = {}
    for entry in json.loads(data_file.read_text(encoding="utf-8")):
        entries[emoji_code(entry["hexcode"])] = entry
        for skin in entry.get("skins", ()) if skin_tones else ():
            entries[emoji_code(skin["hexcode"])] = {"tags": entry.get("tags", ())} | skin
    return entries
