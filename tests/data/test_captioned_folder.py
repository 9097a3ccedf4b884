"""Captions of a user's pictures: from tables, texts beside them or their names; what is left out is told."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from momafuse.config.schema import SourceConfig
from momafuse.data.sources import Item, Raw, Source, open_source
from momafuse.data.sources.captions import caption_by_name
from momafuse.errors import UserError
from tests.data.corpora import source, write_pictures


def opened(path: Path, **changes: Any) -> Source:
    config: SourceConfig = replace(source("captioned_folder", path), **changes)
    return open_source("mine", config)


def captions(found: Source) -> dict[str, Any]:
    return {item.key: item.segments[1] for item in found.items()}


def test_texts_beside_the_pictures_are_captions_and_no_texts(tmp_path: Path) -> None:
    told = write_pictures(tmp_path, 6)
    (tmp_path / "metadata.csv").unlink()
    keys = sorted(told)
    for n, key in enumerate(keys[:-1]):
        (tmp_path / key).with_suffix((".txt", ".caption")[n % 2]).write_text(told[key] + "\n")
    (tmp_path / "story.txt").write_text("a story")
    found = opened(tmp_path)
    assert captions(found) == {key: told[key] for key in keys[:-1]}
    assert "1 of 6 pictures are left out, without a caption beside it" in found.notes[0]
    assert keys[-1] in found.notes[0]
    loose = open_source("mine", source("loose_texts", tmp_path))
    assert [item.segments for item in loose.items()] == [("a story",)]


def test_names_are_captions_where_nothing_else_is(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    (tmp_path / "metadata.csv").unlink()
    for name, new in {"001.png": "red_apple-02.png", "002.png": "IMG_2041.png"}.items():
        (tmp_path / name).rename(tmp_path / new)
    found = opened(tmp_path)
    assert captions(found) == {"red_apple-02.png": "red apple"}
    assert found.notes == (
        "2 of 3 pictures are left out, without a caption beside it or a name that says what it is; the first is IMG_2041.png",
    )


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("a_red-apple.01.png", "a red apple"),
        ("DSC00012.JPG", None),
        ("3f2a9c0d1e.png", None),
        ("Screenshot 2024-01-02.png", None),
        ("sub/\u4e2d\u6587.png", "\u4e2d\u6587"),
        ("7.png", None),
    ],
)
def test_what_a_name_says(name: str, caption: str | None) -> None:
    assert caption_by_name(name) == caption


def test_a_picture_without_a_row_is_told(tmp_path: Path) -> None:
    told = write_pictures(tmp_path, 9)
    lines = (tmp_path / "metadata.csv").read_text().splitlines()
    (tmp_path / "metadata.csv").write_text("\n".join(lines[:-2]) + "\n")
    found = opened(tmp_path)
    assert len(captions(found)) == 7
    assert found.notes == (
        f"2 of 9 pictures are left out, without a row in a table; the first is {sorted(list(told)[-2:])[0]}",
    )


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_read_by_the_table_beside_them(tmp_path: Path, kind: str) -> None:
    told = write_pictures(tmp_path / "p", 5)
    data = {key: (tmp_path / "p" / key).read_bytes() for key in told}
    home = tmp_path / "home"
    home.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(home / "images.zip", "w") as archive:
            for key in told:
                archive.write(tmp_path / "p" / key, key)
    else:
        with tarfile.open(home / "images.tar", "w") as tar:
            for key in told:
                tar.add(tmp_path / "p" / key, key)
    rows = [json.dumps({"file_name": key, "text": text}) for key, text in told.items()]
    (home / "metadata.jsonl").write_text("\n".join(rows))
    found = opened(home)
    assert captions(found) == {f"images.{kind}/{key}": text for key, text in told.items()}
    for item in found.items():
        raw = item.segments[0]
        assert isinstance(raw, Raw)
        assert raw.read() == data[item.key.removeprefix(f"images.{kind}/")]
    (home / "more.tar.gz").write_bytes(b"")
    assert opened(home).notes == ("more.tar.gz: archives of this kind are not read; unpack it",)


def test_a_caption_may_hold_line_breaks_of_any_kind(tmp_path: Path) -> None:
    told = dict(zip(sorted(write_pictures(tmp_path, 3)), ["two\nlines", "one\u0085word\u2028more", 'a, "b"'], strict=True))
    with (tmp_path / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "text"), *told.items()])
    assert captions(opened(tmp_path)) == told


def test_captions_lie_in_archives_too(tmp_path: Path) -> None:
    told = write_pictures(tmp_path / "p", 4)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for key, text in told.items():
            archive.write(tmp_path / "p" / key, key)
            archive.writestr(key.replace(".png", ".txt"), text)
            archive.writestr(f"__MACOSX/._{key}", b"junk")
    shutil.rmtree(tmp_path / "p")
    assert captions(opened(tmp_path)) == {f"a.zip/{key}": text for key, text in told.items()}
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        rows = [json.dumps({"file_name": key, "text": f"row {text}"}) for key, text in told.items()]
        archive.writestr("metadata.jsonl", "\n".join(rows))
    assert captions(opened(tmp_path)) == {f"a.zip/{key}": f"row {text}" for key, text in told.items()}


def test_a_damaged_member_is_rejected_alone(tmp_path: Path) -> None:
    told = write_pictures(tmp_path / "p", 3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for key, text in told.items():
            archive.write(tmp_path / "p" / key, key)
            archive.writestr(key.replace(".png", ".txt"), text)
        place = archive.getinfo(min(told)).header_offset
    shutil.rmtree(tmp_path / "p")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[place + 60] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    raws = [item.segments[0] for item in opened(tmp_path).items()]
    assert all(isinstance(raw, Raw) for raw in raws)
    with pytest.raises(OSError, match=r"a\.zip/.*CRC"):
        raws[0].read()  # type: ignore[union-attr]
    assert raws[1].read()  # type: ignore[union-attr]


def test_rows_that_say_no_group_stand_alone(tmp_path: Path) -> None:
    told = write_pictures(tmp_path, 40)
    (tmp_path / "metadata.csv").unlink()
    rows = [
        {"file_name": key, "text": text, "series": None if n % 4 else f"s{n}"} for n, (key, text) in enumerate(told.items())
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = list(opened(tmp_path, group="series").items())
    assert 1 <= sum(item.split == "validation" for item in items) < 8


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,text\n000.png,a red, round apple\n", r"metadata\.csv: row 1 has more cells than the head"),
        ("name,text\n000.png,a red, round apple\n", r"metadata\.csv: row 1 has more cells than the head"),
        ("name,text\n000.png,an apple\n", r"no column file_name; it has name, text"),
    ],
)
def test_tables_that_are_not_well_formed(tmp_path: Path, table: str, message: str) -> None:
    write_pictures(tmp_path, 2)
    (tmp_path / "metadata.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        opened(tmp_path)


def test_paths_may_be_written_as_under_windows(tmp_path: Path) -> None:
    told = write_pictures(tmp_path, 4)
    rows = "\n".join(f'"{key.replace("/", chr(92))}","{text}"' for key, text in told.items())
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{rows}\n")
    assert captions(opened(tmp_path)) == told


def test_a_caption_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "001.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(UserError, match=r"path=.*: 001\.txt: no UTF-8"):
        opened(tmp_path)


def test_what_momafuse_wrote_there_is_passed_over(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    before = opened(tmp_path).fingerprint
    for name in ("corpora/c/manifest.json", "corpora/c/train/tokens.bin", "corpora/d.unfinished/rejects.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for name in ("runs/r/config.yaml", "runs/r/metrics.jsonl", ".git/a.txt", "__MACOSX/._a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert opened(tmp_path).fingerprint == before
    assert list(open_source("mine", source("loose_texts", tmp_path)).items()) == []


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK no")
    with pytest.raises(UserError, match=r"images\.zip cannot be read"):
        opened(tmp_path)


def test_columns_are_named_where_they_differ(tmp_path: Path) -> None:
    told = write_pictures(tmp_path, 4)
    (tmp_path / "metadata.csv").unlink()
    rows = [json.dumps({"path": key, "prompt": text, "text": "no"}) for key, text in told.items()]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    assert captions(opened(tmp_path, image="path", caption="prompt")) == told
    with pytest.raises(UserError, match=r"no column file_name; it has path, prompt, text: name one by image=COLUMN"):
        opened(tmp_path)


def test_rows_say_what_is_held_out(tmp_path: Path) -> None:
    told = write_pictures(tmp_path, 40)
    rows = [{"file_name": key, "text": text, "series": str(n // 8)} for n, (key, text) in enumerate(told.items())]
    table = tmp_path / "metadata.jsonl"
    (tmp_path / "metadata.csv").unlink()

    def found(**changes: Any) -> dict[str, Item]:
        return {item.key: item for item in opened(tmp_path, **changes).items()}

    table.write_text("\n".join(json.dumps(row | {"split": ("train", "val")[row["file_name"] > "020"]}) for row in rows))
    assert {key: item.split for key, item in found().items()} == {key: "validation" if key > "020" else "train" for key in told}
    table.write_text("\n".join(json.dumps(row | {"split": "held"}) for row in rows))
    with pytest.raises(UserError, match="row 1: split=held; write train or validation"):
        found()
    table.write_text("\n".join(map(json.dumps, rows)))
    by_series: dict[str, set[str]] = {}
    whole = found(group="series", held_out=0.5)
    for row in rows:
        if row["file_name"] != min(told):  # the first is held out always
            by_series.setdefault(row["series"], set()).add(whole[row["file_name"]].split)
    assert all(len(splits) == 1 for splits in by_series.values())
    assert len({splits.copy().pop() for splits in by_series.values()}) == 2


def test_several_rows_of_a_picture_are_documents_of_one_split(tmp_path: Path) -> None:
    told = write_pictures(tmp_path, 3)
    rows = [{"file_name": key, "text": f"{text} {n}"} for key, text in told.items() for n in range(3)]
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = list(opened(tmp_path, held_out=0.5).items())
    assert len({item.key for item in items}) == len(items) == 9
    for key in told:
        assert len({item.split for item in items if item.key.partition("#")[0] == key and item.key != items[0].key}) == 1
