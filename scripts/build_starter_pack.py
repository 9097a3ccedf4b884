"""Builds the embedded starter pack `momafuse/assets/starter-1/` from five pinned packages.

    python scripts/build_starter_pack.py                            # download, build, replace the pack
    python scripts/build_starter_pack.py --check                    # build aside and compare with the pack
    python scripts/build_starter_pack.py --contact-sheets sheets

Same packages and same Pillow and libwebp give the same bytes. What must not go in stands in
`starter_pack/blocklist.txt`; look at the contact sheets before you change the recipe.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, features
from PIL import __version__ as pillow_version
from rich.progress import Progress
from starter_pack import glosses, groups, items, packages, pictures, writer
from starter_pack.errors import PackError
from starter_pack.rules import BlockList

VERSION = "starter-1"
HERE = Path(__file__).resolve().parent
PACK = HERE.parent / "momafuse" / "assets" / VERSION


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=PACK, help="folder to write (default: %(default)s)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=packages.default_cache(),
        help="folder of downloaded packages, named by their SHA-256 (default: %(default)s)",
    )
    parser.add_argument("--contact-sheets", type=Path, metavar="DIR", help="also draw all pictures on sheets in DIR")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the pack at --out differs")
    return parser.parse_args(arguments)


def unpack_all(cache: Path, folder: Path, progress: Progress) -> dict[str, Path]:
    """Fetches and unpacks every package; its root folder by name."""
    task = progress.add_task("packages", total=len(packages.PACKAGES))
    roots: dict[str, Path] = {}
    for package in packages.PACKAGES:
        roots[package.name] = packages.unpack(package, packages.fetch(package, cache), folder)
        progress.advance(task)
    return roots


def find_items(roots: dict[str, Path], dropped: Counter[str]) -> list[items.Item]:
    blocked = BlockList(HERE / "starter_pack" / "blocklist.txt")
    art = "usr/share/openclipart"
    png_root = roots[packages.OPENCLIPART_PNG.name] / art / "png"
    svg_root = roots[packages.OPENCLIPART_SVG.name] / art / "svg"
    data_file = roots[packages.EMOJIBASE.name] / "en" / "data.json"
    found = list(items.clip_art(png_root, svg_root, blocked, dropped))
    return found + list(items.emoji(roots[packages.FLUENT.name] / "assets", data_file, blocked, dropped))


def render_all(
    found: list[items.Item], dropped: Counter[str], progress: Progress
) -> tuple[list[items.Item], list[Image.Image]]:
    """Renders in order; drops what is too large, near-blank or pixel-identical to an earlier picture."""
    kept: list[items.Item] = []
    rendered: list[Image.Image] = []
    seen: set[bytes] = set()
    task = progress.add_task("pictures", total=len(found))
    with ThreadPoolExecutor() as pool:
        for item, picture in zip(found, pool.map(pictures.render, [item.picture for item in found]), strict=True):
            progress.advance(task)
            if picture is None:
                dropped["over 40 megapixels"] += 1
            elif pictures.is_near_blank(picture):
                dropped["near-blank"] += 1
            elif picture.tobytes() in seen:
                dropped["pixel-identical"] += 1
            else:
                seen.add(picture.tobytes())
                kept.append(item)
                rendered.append(picture)
    return kept, rendered


def caption_rows(kept: list[items.Item], rendered: list[Image.Image]) -> list[dict[str, object]]:
    """The rows of `captions.jsonl.xz`, one per picture in order."""
    hashes = np.stack([groups.difference_hash(picture) for picture in rendered])
    return [
        {
            "number": number,
            "key": item.key,
            "kind": "clip_art" if item.emoji_group is None else "emoji",
            "emoji_group": item.emoji_group,
            "group": group,
            "split": groups.split_of(group, groups.VALIDATION_SHARE),
            "title": item.title,
            "keywords": list(item.keywords),
            "description": item.description,
            "caption": item.caption,
        }
        for number, (item, group) in enumerate(zip(kept, groups.group_names(kept, hashes), strict=True))
    ]


def counts_of(rows: list[dict[str, object]], lines: dict[str, list[str]]) -> dict[str, int]:
    return {
        "pictures": len(rows),
        **{f"pictures_{split}": sum(row["split"] == split for row in rows) for split in ("train", "validation")},
        **{kind: sum(row["kind"] == kind for row in rows) for kind in ("clip_art", "emoji")},
        "groups": len({row["group"] for row in rows}),
        "glosses_train": len(lines["train"]),
        "glosses_validation": len(lines["validation"]),
    }


def write_pack(
    folder: Path,
    rows: list[dict[str, object]],
    encoded: list[bytes],
    lines: dict[str, list[str]],
    dropped: Counter[str],
) -> str:
    """Writes all files of the pack into an empty folder and returns the pack's hash."""
    writer.write_zip(folder / "pictures.zip", encoded)
    writer.write_lines(folder / "captions.jsonl.xz", (json.dumps(row, ensure_ascii=False) for row in rows))
    writer.write_lines(folder / "glosses.txt.xz", lines["train"])
    writer.write_lines(folder / "glosses_validation.txt.xz", lines["validation"])
    shutil.copyfile(HERE / "starter_pack" / "NOTICE", folder / "NOTICE")
    facts: dict[str, object] = {
        "version": VERSION,
        "side": pictures.SIDE,
        "counts": counts_of(rows, lines),
        "dropped": dict(dropped),
        "sources": [{"name": p.name, "version": p.version, "sha256": p.sha256} for p in packages.PACKAGES],
        "tools": {"pillow": pillow_version, "libwebp": features.version("webp")},
    }
    return writer.write_manifest(folder, facts)


def build(cache: Path, folder: Path, sheets: Path | None, progress: Progress) -> str:
    """Builds the pack into the empty `folder`; returns its hash. Raises `PackError`."""
    dropped: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as unpacked:
        roots = unpack_all(cache, Path(unpacked), progress)
        kept, rendered = render_all(find_items(roots, dropped), dropped, progress)
        lines, dropped["gloss"] = glosses.read_glosses(roots[packages.WORDNET.name] / "usr/share/wordnet")
    rows = caption_rows(kept, rendered)
    encoded = [pictures.encode(picture) for picture in rendered]
    if sheets is not None:
        pictures.contact_sheets([(data, item.title) for data, item in zip(encoded, kept, strict=True)], sheets)
    digest = write_pack(folder, rows, encoded, lines, dropped)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > writer.MAX_BYTES:
        raise PackError(f"the pack has {size} bytes, more than {writer.MAX_BYTES}; take fewer pictures")
    return digest


def replace_folder(new: Path, old: Path) -> None:
    """Puts the files of `new` in the place of `old`, which may not exist yet; written aside and renamed."""
    aside = old.with_name(f".{old.name}.new")
    for leftover in (aside, old.with_name(f".{old.name}.old")):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)
    for path in sorted(new.iterdir()):
        shutil.copyfile(path, aside / path.name)
    if old.exists():
        old.rename(old.with_name(f".{old.name}.old"))
    aside.rename(old)
    shutil.rmtree(old.with_name(f".{old.name}.old"), ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the build; 0 when done, 1 with one line on stderr when not."""
    options = parse_arguments(arguments)
    try:
        with tempfile.TemporaryDirectory() as aside, Progress(transient=True) as progress:
            digest = build(options.cache, Path(aside), options.contact_sheets, progress)
            if not options.check:
                replace_folder(Path(aside), options.out)
    except (PackError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    manifest = options.out / writer.MANIFEST
    there = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    if there.get("pack_sha256") != digest:
        print(f"error: {options.out} is not the pack that was built ({digest}); run without --check", file=sys.stderr)
        return 1
    print(f"{VERSION} {digest} {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
