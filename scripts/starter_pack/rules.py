"""What goes into the pack and under which words: folders, keywords, block words, titles and title stems.

Pure functions on strings, after the project's data recipe. Block words match whole words, so that authors' names in
file names ("christ...") or "mante religieuse" do no harm.
"""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

TAKEN_FOLDERS = (
    *("animals", "food", "plants", "buildings", "containers", "electronics", "computer/hardware", "office"),
    *("education", "science", "geography/astronomy", "tools", "transportation", "people/clothing"),
    *("recreation/music", "recreation/party", "recreation/sports", "recreation/toys"),
    *("recreation/games/chess", "recreation/games/dice"),
)
EXCLUDED_PATHS = (
    *("tools/weapons/*", "transportation/aiga-symbols/*", "transportation/roadsigns/*"),
    *("transportation/vehicles/hummers/*", "transportation/hummer*", "transportation/boating/boating_rules*"),
    *("people/clothing/pantyhose*", "recreation/sports/sport_*", "recreation/sports/stylized_yoga*"),
)
# A second path in one of these folders does no harm; one in any other folder that is not taken does.
HARMLESS_FOLDERS = ("recreation", "decorations", "buttons", "unsorted", "computer")
HARMFUL_FOLDERS = ("recreation/religion", "computer/icons")


def read_words(path: Path) -> dict[str, frozenset[str]]:
    """The word lists of `words.txt` by the name of their section."""
    lists: dict[str, set[str]] = {}
    section = ""
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = raw.partition("#")[0].strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            lists.setdefault(section, set()).update(word.strip() for word in line.split(",") if word.strip())
    return {name: frozenset(words) for name, words in lists.items()}


WORDS = read_words(Path(__file__).with_name("words.txt"))
_BLOCK_PATTERN = re.compile(
    r"\b(?:" + "|".join(rf"{w[:-1]}\w*" if w.endswith("-") else w for w in sorted(WORDS["block words"])) + r")\b"
)
# Slurs and obscene words, most of them marked so by WordNet itself: a small model's samples should not repeat them.
BLOCKED_GLOSSES = re.compile(
    r"ethnic slur|\b(?:offensive|disparaging|derogatory|insulting|obscene|vulgar)(?: and \w+)? "
    r"(?:term|name|word|slang|expression)|\b(?:fuck|cunt|nigger|shit(?!t))",
    re.IGNORECASE,
)

_COLLECTION_TITLE = re.compile(r"\b(?:collection|theme|aiga|road signs|nicu|clipart)\b", re.IGNORECASE)
_COLLECTION_NAMES = frozenset({"r15 general", "r16 sibmission", "chess pieces", "moons", "balloons aj"})
_AUTHOR_IN_TITLE = re.compile(r"\b(?:architetto|francesco|rollandin|ganson)\b|\(email:.*?\)", re.IGNORECASE)
_BLACK_AND_WHITE = re.compile(r"\s*\(?\bb(?:lack)?(?: and | & | )?w(?:hite)?\)?$", re.IGNORECASE)
# Initials, version, extension and running number at a title's end.
_TITLE_ENDING = re.compile(r"(?:\.svg|-aj|-md|[- ]v\d[\d.]*|(?<=[a-z]) ?#?\d+)$", re.IGNORECASE)
_EMPTY_DESCRIPTION = re.compile(r"https?:|www\.|\S@\S|HASH\(|\b(?:inkscape|sodipodi|architetto)\b", re.IGNORECASE)
MOON_TITLES = {
    "01": "new moon",
    "02": "waxing crescent moon",
    "03": "first quarter moon",
    "04": "waxing gibbous moon",
    "05": "full moon",
    "06": "waning gibbous moon",
    "07": "last quarter moon",
    "08": "waning crescent moon",
}

_STEM_DROPS = {"openclipart": WORDS["colours"], "fluent3d": WORDS["colours"] | WORDS["persons"]}


def _inside(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


def is_taken(path: str) -> bool:
    """Whether a clip-art path (relative, "animals/bat.png") lies in a folder that the pack takes."""
    return _inside(path, TAKEN_FOLDERS) and not any(fnmatchcase(path, pattern) for pattern in EXCLUDED_PATHS)


def is_forbidden_alias(path: str) -> bool:
    """Whether a second path of a picture keeps the picture out, although its first path is taken."""
    harmless = _inside(path, HARMLESS_FOLDERS) and not _inside(path, HARMFUL_FOLDERS)
    return not harmless and not is_taken(path)


def repair_text(text: str) -> str:
    """Undoes HTML entities and UTF-8 that was encoded twice; white space becomes single spaces."""
    text = html.unescape(html.unescape(text))
    if re.search("[ÃÂ]", text):
        with contextlib.suppress(UnicodeError):
            text = text.encode("latin-1").decode("utf-8")
    return " ".join(text.split())


def clean_keywords(raw: Iterable[str], limit: int = 6) -> list[str]:
    """Lower-case, unique keywords without those that say nothing of the picture; at most `limit`."""
    words = [part.strip() for entry in raw for part in repair_text(entry).lower().split(",")]
    says_something = [
        word
        for word in words
        if word not in WORDS["empty keywords"]
        and re.search("[a-z]", word)
        and not re.search(r"\bhash\b|[0-9a-f]{8,}|\d{4,}|https?:|www\.", word)
    ]
    return list(dict.fromkeys(says_something))[:limit]


def has_blocked_keyword(path: str, keywords: Sequence[str]) -> bool:
    """Whether a keyword keeps the item out; garments may say "people"."""
    allowed = {"people"} if path.startswith("people/clothing/") else set()
    return bool(WORDS["blocked keywords"].intersection(keywords) - allowed)


def has_block_word(*texts: str) -> bool:
    """Whether a block word stands in one of the texts; `_`, `-` and `/` end a word."""
    return any(_BLOCK_PATTERN.search(re.sub(r"[_\W]+", " ", text.lower())) for text in texts)


def clean_title(title: str) -> str:
    """The title without author, file extension, version and running number; twins end in "(black and white)"."""
    text = " ".join(_AUTHOR_IN_TITLE.sub("", repair_text(title.replace("_", " "))).split())
    plain = _BLACK_AND_WHITE.sub("", text)
    suffix = " (black and white)" if plain and plain != text else ""
    while plain != (shorter := _TITLE_ENDING.sub("", plain or text)) and shorter:
        plain = shorter
    return plain.strip(" -") + suffix


def title_from_stem(stem: str, author: str) -> str:
    """A title from a file stem, without number and (often cut) author: "zucca_architetto_01" -> "zucca"."""
    pieces = [piece for piece in re.sub(r"_*\d*$", "", stem.lower()).split("_") if piece]
    slug = "_".join(re.findall(r"\w+", author.lower()))
    for start in range(1, len(pieces)):
        if slug and slug.startswith("_".join(pieces[start:])):
            pieces = pieces[:start]
            break
    is_bw = "bw" in pieces
    return clean_title(" ".join([piece for piece in pieces if piece != "bw"] + ["bw"] * is_bw))


def choose_title(title: str, path: str, author: str) -> str:
    """The title that names the object: the given one, or the file stem where it names only a collection."""
    stem = path.rpartition("/")[2]
    moon = MOON_TITLES.get(stem[:2]) if path.startswith("geography/astronomy/") else None
    if moon:
        return moon
    cleaned = clean_title(title)
    if cleaned and not _COLLECTION_TITLE.search(title) and repair_text(title).lower() not in _COLLECTION_NAMES:
        return cleaned
    return title_from_stem(stem, author)


def clean_description(description: str, title: str) -> str:
    """The description, or nothing where it repeats the title, names only a tool or author, or holds an address."""
    text = repair_text(description)

    def core(words: str) -> str:
        return re.sub(r"\W|\d", "", clean_title(words).removesuffix("(black and white)").lower())

    if _EMPTY_DESCRIPTION.search(text) or core(text) in {"", core(title)}:
        return ""
    return text


def make_caption(title: str, keywords: Sequence[str], description: str) -> str:
    """ "title: kw, kw. description", without the parts that are empty."""
    caption = f"{title}: {', '.join(keywords)}" if keywords else title
    return f"{caption}. {description}" if description else caption


def title_stem(source: str, title: str) -> str:
    """What near-identical drawings of one series share: the title without digits, colours and (emoji) persons."""
    if source == "fluent3d" and title.startswith("flag:"):
        return title.lower()
    text = re.sub(r"\bb(?:lack)? (?:and|&) w(?:hite)?\b", " ", title.lower())
    words = [word for word in re.findall(r"[^\W\d_]+", text) if word not in _STEM_DROPS[source]]
    return " ".join(words) or title.lower()


class BlockList:
    """The keys that someone looked at and kept out, read from `blocklist.txt`."""

    def __init__(self, path: Path) -> None:
        lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
        self.patterns = [line for line in lines if line]

    def __contains__(self, key: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in self.patterns)
