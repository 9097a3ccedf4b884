"""Pictures of any source: which are held out, what cannot be used, and what stays in memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from momafuse.config.schema import SourceConfig
from momafuse.data.sources import open_source
from momafuse.errors import UserError
from momafuse.tokenizers import reading
from momafuse.tokenizers.reading import read_pictures
from momafuse.vision.codec import ImageCodec


def source(path: Path | None, reader: str = "picture_folder") -> SourceConfig:
    return SourceConfig(reader=reader, path=None if path is None else str(path), weight=1.0, variants=1)


def painted(path: Path, colour: int, size: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (colour, 0, 255 - colour)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(30):
        painted(tmp_path / "mine (1)=50%" / "deep" / f"{number}_$^$.png", 8 * number)
    (tmp_path / "mine (1)=50%" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "mine (1)=50%" / "empty.png").write_bytes(b"")
    (tmp_path / "mine (1)=50%" / "notes.txt").write_text("not looked at")
    return tmp_path / "mine (1)=50%"


def test_every_picture_once_and_what_cannot_be_used_with_its_reason(folder: Path) -> None:
    found = read_pictures({"mine": source(folder)}, 16, larger=False)
    assert len(found.pictures) == 30
    assert sorted(found.titles) == sorted(f"deep/{n}_$^$.png" for n in range(30))
    assert set(found.kinds) == {"mine"}
    assert sum(found.heldout) >= 1, "the first one at least"
    assert dict(found.rejects) == {"mine/broken.jpg": "no picture format", "mine/empty.png": "no picture format"}
    for number, title in enumerate(found.titles):
        colour = 8 * int(title.removeprefix("deep/").partition("_")[0])
        assert found.pictures[number][:, 5, 5].tolist() == [colour, 0, 255 - colour]


def test_a_subfolder_validation_holds_all_that_is_held_out(tmp_path: Path) -> None:
    for name in ("validation/a.png", "train/b.png", "deep/validation/c.png", "d.png"):
        painted(tmp_path / name, 100)
    items = {item.key: item.split for item in open_source("mine", source(tmp_path)).items()}
    assert {key for key, split in items.items() if split == "validation"} == {"validation/a.png"}
    (tmp_path / "validation" / "a.png").unlink()
    with pytest.raises(UserError, match=r"data\.sources\.mine\.path=.*validation holds no picture; put some there"):
        open_source("mine", source(tmp_path))


def test_what_does_not_fit_into_memory_is_read_when_it_is_wanted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = read_pictures({"mine": source(folder)}, 16, larger=True)
    monkeypatch.setattr(reading, "IN_MEMORY", 10_000)
    read = read_pictures({"mine": source(folder)}, 16, larger=True)
    assert read.pictures._pixels is None
    assert held.pictures._pixels is not None
    assert read.fingerprint == held.fingerprint
    assert read.larger is not None
    assert held.larger is not None
    for number in range(30):
        assert torch.equal(read.pictures[number], held.pictures[number])
        assert read.larger[number].shape == (3, 32, 32)
        assert torch.equal(read.larger[number], held.larger[number])


def test_captioned_pictures_and_documents_with_several(tmp_path: Path) -> None:
    painted(tmp_path / "a.png", 10)
    painted(tmp_path / "b.png", 20)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,first\nb.png,second\n")
    found = read_pictures(
        {"mine": source(tmp_path, "captioned_folder"), "pack": source(None, "starter_glosses")}, 8, larger=False
    )
    assert sorted(found.titles) == ["first", "second"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, r"data\.sources\.mine\.path=.*no such file or folder"),
        ("notes.txt", r"data\.sources\.mine\.path=.*no pictures in this folder"),
        ("broken.png", r"data\.sources=\{mine\}: no picture that can be used; the first of 1: mine/broken\.png"),
    ],
)
def test_without_pictures_it_is_one_line(tmp_path: Path, made: str | None, message: str) -> None:
    if made is not None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / made).write_bytes(b"nothing")
    with pytest.raises(UserError, match=message):
        read_pictures({"mine": source(tmp_path / "mine")}, 16, larger=False)


def test_a_picture_is_used_or_refused_as_prepare_does(tmp_path: Path) -> None:
    """Truncated, animated, CMYK, of 16 bits, transparent, turned by its camera, huge, empty: with the same pixels or reason."""
    red, exif = Image.new("RGB", (40, 40), (250, 0, 0)), Image.Exif()
    exif[0x0112] = 6
    red.paste((0, 0, 0), (0, 0, 40, 9))
    red.save(tmp_path / "turned.png", exif=exif)
    red.convert("CMYK").save(tmp_path / "cmyk.jpg")
    red.save(tmp_path / "animated.webp", save_all=True, append_images=[Image.new("RGB", (40, 40))], lossless=True)
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("1", (20000, 10000)).save(tmp_path / "huge.png")
    red.save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:400])
    (tmp_path / "empty.png").write_bytes(b"")
    codec = ImageCodec.load("starter_vq_v1")
    found = read_pictures({"mine": source(tmp_path)}, 64, larger=False)
    used = {title: found.pictures[number] for number, title in enumerate(found.titles)}
    refused = {key.removeprefix("mine/"): reason for key, reason in found.rejects}
    assert set(used) == {"turned.png", "cmyk.jpg", "animated.webp", "deep.png", "clear.png"}
    assert set(refused) == {"huge.png", "half.jpg", "empty.png"}
    for name, picture in used.items():
        assert torch.equal(codec.read((tmp_path / name).read_bytes()), picture)
    for name, reason in refused.items():
        with pytest.raises(ValueError, match=re.escape(reason)):
            codec.read((tmp_path / name).read_bytes())
