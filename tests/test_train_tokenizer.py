"""`python -m momafuse.train_tokenizer`, with a tokenizer that trains in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from momafuse.data.sources.registry import held_out as by_hash
from momafuse.errors import UserError
from momafuse.speech.audio import read_audio
from momafuse.speech.tokenizer import SpeechTokenizer
from momafuse.tokenizers.picture_folders import load_folders
from momafuse.tokens.text import TextTokenizer
from momafuse.train_tokenizer import main
from momafuse.vision.tokenizer import ImageTokenizer
from tests.speech.sounds import encoded, voice

SMALL = """tokenizer=starter_vq tokenizer.name=small tokenizer.steps=6 tokenizer.plain_steps=3 tokenizer.batch=8
tokenizer.architecture.codes=64 tokenizer.architecture.encoder_channels=[8,8] tokenizer.architecture.encoder_blocks=[0,1]
tokenizer.architecture.decoder_channels=[8,8,8] tokenizer.architecture.decoder_blocks=[1,0,0]""".split()


def test_an_image_tokenizer_with_its_figures_and_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, f"out={tmp_path}"])
    out = capsys.readouterr().out
    assert "codes used" in out
    assert "held out (111): PSNR mean " in out
    assert "kernel distance (EfficientNet-Lite0)" in out
    figures = json.loads((tmp_path / "small.json").read_text("utf-8"))
    assert figures["config"]["steps"] == 6
    assert figures["heldout"]["pictures"] + figures["train"]["pictures"] > 3000
    assert 5 < figures["heldout"]["psnr_pooled"] < 40
    tokenizer = ImageTokenizer.load(str(tmp_path / "small.safetensors"))
    assert (tokenizer.codes, tokenizer.block) == (64, 64)
    assert tokenizer.fingerprint in out
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")


GAN = """tokenizer=vqgan_64 tokenizer.name=small.1 tokenizer.steps=3 tokenizer.plain_steps=1 tokenizer.batch=2
tokenizer.architecture.image_size=16 tokenizer.architecture.codes=16 tokenizer.architecture.multipliers=[1,1]
tokenizer.architecture.z=8 tokenizer.architecture.code_dim=4""".split()


def test_vqgans_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*GAN, f"out={tmp_path}"])
    assert "held out (111): PSNR mean " in capsys.readouterr().out
    tokenizer = ImageTokenizer.load(str(tmp_path / "small.1.safetensors"))
    assert (tokenizer.codes, tokenizer.image_size, tokenizer.block) == (16, 16, 64)


def test_folders_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for name, count in (("mine (1)=50%", 30), ("yours/deep", 5)):
        (tmp_path / name).mkdir(parents=True)
        for n in range(count):
            pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{n}_$^$.png")
    (tmp_path / "mine (1)=50%" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "mine (1)=50%" / "notes.txt").write_text("not looked at")
    folders = f"tokenizer.folders=[{tmp_path / 'mine (1)=50%'},{tmp_path / 'yours'}]"
    main([*GAN, folders, f"out={tmp_path / 'out'}"])
    out = capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "small.1.json").read_text("utf-8"))
    assert figures["heldout"]["pictures"] + figures["train"]["pictures"] == 35
    assert set(figures["heldout_by_kind"]) == {str(tmp_path / "mine (1)=50%"), str(tmp_path / "yours")}, (
        "the first of each at least"
    )
    assert "1 cannot be used" in out
    assert "broken.jpg\tno picture format" in (tmp_path / "out" / "small.1_rejects.txt").read_text("utf-8")


def test_a_subfolder_named_validation_is_what_is_held_out(tmp_path: Path) -> None:
    held = ("validation/d.png", "validation/deep/e.png")
    divided = ("a.png", "train/b.png", "train/validation/c.png", *held, "validations/f.png")
    hashed = [f"{n}.png" for n in range(9)]
    for name in (*(f"divided/{name}" for name in divided), *(f"hashed/{name}" for name in hashed)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    found, rejects = load_folders([str(tmp_path / "divided"), str(tmp_path / "hashed")], 8)
    assert not rejects
    assert found.titles == [*divided, *hashed]
    held_out = {title for title, is_held in zip(found.titles, found.heldout.tolist(), strict=True) if is_held}
    assert held_out == {*held, *(name for name in hashed if name == "0.png" or by_hash(name))}
    for name in held:
        (tmp_path / "divided" / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"divided/validation holds no picture that can be used; put some there, or delete it"):
        load_folders([str(tmp_path / "divided")], 8)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "no such folder; python scripts/fetch_corpus.py"),
        ("notes.txt", "holds no picture that can be used"),
        ("broken.png", "the first of 1: "),
        ("one.png", "1 pictures are too few"),
    ],
)
def test_folders_without_pictures_are_one_line(
    tmp_path: Path, made: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if made is not None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / made).write_bytes(b"nothing")
    if made == "one.png":
        Image.new("RGB", (9, 9)).save(tmp_path / "mine" / made)
    with pytest.raises(SystemExit) as left:
        main([*GAN, f"tokenizer.folders=[{tmp_path / 'mine'}]", f"out={tmp_path / 'out'}"])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bpe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tokenizer=starter_bpe", "tokenizer.name=small", "tokenizer.pieces=600", f"out={tmp_path}"])
    trained = TextTokenizer.load(str(tmp_path / "small.model"))
    assert trained.pieces == 600
    assert trained.fingerprint in capsys.readouterr().out


def test_a_misspelt_key_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["tokenizer.stesp=3"])
    assert left.value.code == 2
    assert "tokenizer.steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tokenizer.plain_steps=6", "tokenizer.steps=6: must be more than tokenizer.plain_steps=6"),
        ("tokenizer.quantizer.kind=fsq", "tokenizer.quantizer.space=sphere: fsq's codes are a grid"),
        ("tokenizer.quantizer.kind=fqs", "tokenizer.quantizer.kind"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*SMALL, word, f"out={tmp_path / 'out'}"])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def folder_of_voices(folder: Path) -> None:
    folder.mkdir()
    rows = ["file_name,text,split"]
    for n in range(8):
        (folder / f"{n}.wav").write_bytes(encoded(voice(1.5, 16_000, n), 16_000))
        rows.append(f"{n}.wav,voice {n},{'validation' if n < 2 else 'train'}")
    (folder / "no.wav").write_bytes(b"no sound")
    (folder / "metadata.csv").write_text("\n".join([*rows, "no.wav,,train\n"]))


TINY = """tokenizer=speech_vq tokenizer.name=small tokenizer.steps=30 tokenizer.plain_steps=10 tokenizer.batch=4
tokenizer.architecture.codes=16 tokenizer.architecture.frame_channels=8 tokenizer.architecture.code_channels=8
tokenizer.architecture.code_dim=4 tokenizer.excerpt=20""".split()


def test_a_speech_tokenizer_with_its_figures_sheet_and_sounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_voices(tmp_path / "voices")
    main([*TINY, f"tokenizer.folders=[{tmp_path / 'voices'}]", f"out={tmp_path / 'out'}"])
    out = " ".join(capsys.readouterr().out.split())
    assert "6 sounds to train on, 2 held out, 1 cannot be used" in out
    figures = json.loads((tmp_path / "out" / "small.json").read_text("utf-8"))
    assert (figures["heldout"]["sounds"], figures["heldout"]["places"]) == (2, 76)
    assert f"{figures['heldout']['codes_used']} of 16 codes used in 76 places" in out
    assert (tmp_path / "out" / "small.png").read_bytes().startswith(b"\x89PNG")
    tokenizer = SpeechTokenizer.load(str(tmp_path / "out" / "small.safetensors"))
    assert tokenizer.fingerprint in out
    for kind in ("original", "decoded"):
        heard = read_audio((tmp_path / "out" / f"small_{kind}.wav").read_bytes(), 16_000)
        assert len(heard) / 16_000 == pytest.approx(2 * (1.5 + 0.5), abs=0.1), "both with their pauses"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("[nowhere]", "tokenizer.folders: path=nowhere: no such file or folder"),
        ("[.]", "no metadata.csv"),
        ("[]", "no sound to train on"),
    ],
)
def test_folders_without_sounds_are_one_line(
    tmp_path: Path, folders: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main([*TINY, f"tokenizer.folders={folders}", f"out={tmp_path / 'out'}"])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
