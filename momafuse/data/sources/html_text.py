"""What a page of HTML says, in reading order: texts, and the pictures between them. Uses the parser of the standard library.

White space collapses as a browser collapses it, but for <pre>; blocks begin a line, paragraphs and headings come after an empty
one, cells of a table after a space. Left out is what is no part of what the page says, as far as one can tell from its tags:
the head, scripts and styles, navigation, footers, controls, what is hidden, by element, role and the names that generators of
documentation give (`NAVIGATION`); <header> and <aside> too, unless they belong to an <article> or <main>. Where a page has a
<main> (or a role of that name) that says something, the rest of it is left out.

Elements whose end may be left out (`ENDS`) end where another one begins; any other that is never closed ends with the one
around it. Runs no scripts, and knows nothing of styles but `display: none` in the element itself.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from html.parser import HTMLParser
from typing import NamedTuple

VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())
DROPPED = frozenset(
    "head script style noscript template nav footer button select textarea label svg iframe object canvas video audio".split()
)
DROPPED_OUTSIDE = frozenset({"header", "aside"})  # of what the page is about they are the site's, within it the article's own
CONTENT = frozenset({"main", "article"})
ROLES = frozenset({"navigation", "search", "banner", "contentinfo"})
# Classes and ids: common ones, then those of DocBook, Doxygen, Sphinx and its gallery.
NAVIGATION = frozenset(
    "nav navbar navigation menu sidebar breadcrumb breadcrumbs footer toc headerlink "
    "navheader navfooter navpath titlearea main-nav sphinxsidebar sphx-glr-download-link-note sphx-glr-footer "
    "sphx-glr-timing sphx-glr-signature".split()
)
PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 pre table ul ol dl blockquote figure section article main hr".split())
LINES = frozenset("div li dt dd tr br caption figcaption address header footer aside details summary".split())
CELLS = frozenset({"td", "th"})
_ITEMS, _ROWS = frozenset({"dt", "dd"}), frozenset({"td", "th"})
ENDS = {"li": frozenset({"li"}), "dt": _ITEMS, "dd": _ITEMS, "tr": _ROWS | {"tr"}, "td": _ROWS, "th": _ROWS}
AROUND = frozenset({"ul", "ol", "dl", "table"})  # an element of another one of these ends nothing
UNREADABLE = 0.01  # share of replaced characters from which on a page is no text in its encoding
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class Picture(NamedTuple):
    """An <img>: its address as it is written, and what it says instead of it."""

    address: str
    alt: str


def decode(data: bytes) -> str | None:
    """A page in the encoding that it declares in its first 1,024 bytes, else UTF-8; None where that gives no text."""
    marked = next((name for mark, name in _BOMS.items() if data.startswith(mark)), None)
    declared = _DECLARED.search(data[:1024])
    name = marked or (declared[1].decode().lower() if declared else "utf-8")
    if name in ("iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii"):
        name = "windows-1252"  # as browsers do, since pages say the one and mean the other
    try:
        text = data.decode(name, "replace")
    except (LookupError, UnicodeError):
        text = data.decode("utf-8", "replace")
    return None if text.count("\ufffd") > UNREADABLE * len(text) else text.replace("\0", "")


def read(page: str) -> list[str | Picture]:
    """Texts and pictures in order. Texts carry the white space that separates them, so that two of them can be joined."""
    reader = _Reader()
    try:
        reader.feed(page)
        reader.close()
    except AssertionError:  # of the parser, at a declaration like <![foo[; what stands before it is read
        pass
    reader.end_text()
    mains = [part for part, in_main in reader.parts if in_main]
    if any(isinstance(part, str) for part in mains):
        return mains
    return [part for part, _ in reader.parts]


class _Open(NamedTuple):
    """An element that is open, and whether it began what is dropped, the page's main content, content, or <pre>."""

    tag: str
    drops: bool
    main: bool
    content: bool
    pre: bool


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[tuple[str | Picture, bool]] = []
        self._open: list[_Open] = []
        self._tags: Counter[str] = Counter()  # of those that are open
        self._text: list[str] = []
        self._breaks = 0  # line ends before the next word
        self._space = False
        self._dropped = self._main = self._content = self._pre = 0  # open elements of each kind

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self._end_before(tag)
        self._separate(tag)
        if tag == "img" and not self._dropped and not _is_dropped(tag, named):
            self.end_text()
            self.parts.append((Picture(named.get("src", ""), " ".join(named.get("alt", "").split())), self._main > 0))
        if tag in VOID:
            return
        drops = _is_dropped(tag, named) or (tag in DROPPED_OUTSIDE and not self._content)
        main = tag == "main" or named.get("role") == "main"
        element = _Open(tag, drops, main, main or tag in CONTENT, tag == "pre")
        if main and not self._main:
            self.end_text()
        self._open.append(element)
        self._tags[tag] += 1
        self._count(element, 1)

    def _end_before(self, tag: str) -> None:
        if self._open and self._open[-1].tag == "p" and (tag in PARAGRAPHS or tag in LINES):
            self.handle_endtag("p")
        ends = ENDS.get(tag, frozenset())
        if any(self._tags[name] for name in ends):
            for element in reversed(self._open):
                if element.tag in ends:
                    self.handle_endtag(element.tag)
                    return
                if element.tag in AROUND:
                    return

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:  # XHTML's <a id="here"/>
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or not self._tags[tag]:
            return
        while True:
            element = self._open.pop()
            self._tags[element.tag] -= 1
            self._separate(element.tag)
            if element.main and self._main == 1:
                self.end_text()
            self._count(element, -1)
            if element.tag == tag:
                return

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        if self._pre:
            self._say(data)
        elif words := " ".join(data.split()):
            self._space |= data[0].isspace()
            self._say(words)
            self._space = data[-1].isspace()
        else:
            self._space |= bool(data)

    def end_text(self) -> None:
        if self._text:
            self.parts.append(("".join(self._text), self._main > 0))
            self._text = []

    def _say(self, text: str) -> None:
        if self._breaks:
            if self._text:
                self._text[-1] = self._text[-1].rstrip()
            self._text.append("\n" * self._breaks)
        elif self._space:
            self._text.append(" ")
        self._text.append(text)
        self._breaks, self._space = 0, False

    def _separate(self, tag: str) -> None:
        if self._dropped:
            return
        self._breaks = max(self._breaks, 2 if tag in PARAGRAPHS else 1 if tag in LINES else 0)
        self._space |= tag in CELLS

    def _count(self, element: _Open, by: int) -> None:
        self._dropped += by * element.drops
        self._main += by * element.main
        self._content += by * element.content
        self._pre += by * element.pre


def _is_dropped(tag: str, named: dict[str, str]) -> bool:
    names = {*named.get("class", "").lower().split(), named.get("id", "").lower()}
    hidden = "hidden" in named or _HIDDEN.search(named.get("style", "")) is not None
    return tag in DROPPED or hidden or named.get("role") in ROLES or not names.isdisjoint(NAVIGATION)
