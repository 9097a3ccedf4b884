"""Reads WordNet's glosses as "word: gloss" lines and splits them by word.

All senses of a word stand on one side. Glosses that WordNet marks as slurs or obscene are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from starter_pack.groups import GLOSS_VALIDATION_SHARE, split_of
from starter_pack.rules import BLOCKED_GLOSSES

PARTS = ("noun", "verb", "adj", "adv")


def parse_line(line: str) -> str | None:
    """ "word: gloss" of a line of a WordNet data file, None for a header line."""
    if line.startswith("  ") or "|" not in line:
        return None
    fields, _, gloss = line.partition("|")
    # Adjectives carry their position as a marker: "afloat(p)".
    word = re.sub(r"\([a-z]+\)$", "", fields.split()[4]).replace("_", " ")
    return f"{word}: {' '.join(gloss.split())}"


def read_glosses(folder: Path) -> tuple[dict[str, list[str]], int]:
    """Lines by split ("train", "validation") in the order of the files, and the number left out."""
    lines: dict[str, list[str]] = {"train": [], "validation": []}
    dropped = 0
    for part in PARTS:
        for raw in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            line = parse_line(raw)
            if line is None:
                continue
            if BLOCKED_GLOSSES.search(line):
                dropped += 1
                continue
            lines[split_of(line.partition(":")[0].lower(), GLOSS_VALIDATION_SHARE)].append(line)
    return lines, dropped
