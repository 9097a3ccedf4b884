"""`python -m momafuse.train_tokenizer`, with a tokenizer that trains in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from momafuse.speech.audio import read_audio
from momafuse.speech.tokenizer import SpeechTokenizer
from momafuse.tokens.text import TextTokenizer
from momafuse.train_tokenizer import main
from momafuse.vision.tokenizer import ImageTokenizer
from tests.speech.sounds import encoded, voice

SMALL = """tokenizer=starter_vq tokenizer.name=small trainer.max_steps=6 tokenizer.plain_steps=3 trainer.global_batch=8
logger.wandb=disabled
tokenizer.architecture.codes=64 tokenizer.architecture.encoder_channels=[8,8] tokenizer.architecture.encoder_blocks=[0,1]
tokenizer.architecture.decoder_channels=[8,8,8] tokenizer.architecture.decoder_blocks=[1,0,0]""".split()


def test_an_image_tokenizer_with_its_figures_and_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, f"out={tmp_path}", f"run.root={tmp_path / 'runs'}"])
    out = capsys.readouterr().out
    assert "codes used" in out
    assert "held out (111): PSNR mean " in out
    assert "kernel distance (EfficientNet-Lite0)" in out
    figures = json.loads((tmp_path / "small.json").read_text("utf-8"))
    assert figures["steps"] == 6
    assert figures["heldout"]["pictures"] + figures["train"]["pictures"] > 2000
    assert 5 < figures["heldout"]["psnr_pooled"] < 40
    tokenizer = ImageTokenizer.load(str(tmp_path / "small.safetensors"))
    assert (tokenizer.codes, tokenizer.block) == (64, 64)
    assert tokenizer.fingerprint in out
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")


GAN = """tokenizer=vqgan_64 tokenizer.name=small.1 trainer.max_steps=3 tokenizer.plain_steps=1 trainer.global_batch=2
logger.wandb=disabled
tokenizer.architecture.image_size=16 tokenizer.architecture.codes=16 tokenizer.architecture.multipliers=[1,1]
tokenizer.architecture.z=8 tokenizer.architecture.code_dim=4""".split()


def test_vqgans_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*GAN, f"out={tmp_path}", f"run.root={tmp_path / 'runs'}"])
    assert "held out (111): PSNR mean " in capsys.readouterr().out
    tokenizer = ImageTokenizer.load(str(tmp_path / "small.1.safetensors"))
    assert (tokenizer.codes, tokenizer.image_size, tokenizer.block) == (16, 16, 64)


def test_a_folder_of_pictures_and_what_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator, mine = np.random.default_rng(0), tmp_path / "mine (1)=50%"
    mine.mkdir()
    for n in range(30):
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(mine / f"{n}_$^$.png")
    (mine / "broken.jpg").write_bytes(b"no picture")
    words = ["data=picture_folder", f"data.sources.pictures.path={mine}", f"run.root={tmp_path / 'runs'}"]
    main([*GAN, *words, f"out={tmp_path / 'out'}"])
    out = capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "small.1.json").read_text("utf-8"))
    assert figures["heldout"]["pictures"] + figures["train"]["pictures"] == 30
    assert set(figures["heldout_by_kind"]) == {"pictures"}
    assert "; 1 cannot be used: " in out
    assert (tmp_path / "out" / "small.1_rejects.txt").read_text("utf-8") == "pictures/broken.jpg\tno picture format\n"
    main([*GAN, *words, f"out={tmp_path / 'out'}"])
    assert "is complete: 3 steps. For more: trainer.max_steps=6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "data.sources.pictures.path="),
        ("notes.txt", "no pictures in this folder"),
        ("broken.png", "no picture that can be used; the first of 1: "),
        ("one.png", "none of 1 pictures is to train on; give more"),
    ],
)
def test_without_pictures_it_is_one_line(
    tmp_path: Path, made: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if made is not None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / made).write_bytes(b"nothing")
    if made == "one.png":
        Image.new("RGB", (9, 9)).save(tmp_path / "mine" / made)
    words = ["data=picture_folder", f"data.sources.pictures.path={tmp_path / 'mine'}", f"run.root={tmp_path / 'runs'}"]
    with pytest.raises(SystemExit) as left:
        main([*GAN, *words, f"out={tmp_path / 'out'}"])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


def test_a_bpe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tokenizer=starter_bpe", "tokenizer.name=small", "tokenizer.pieces=600", f"out={tmp_path}"])
    trained = TextTokenizer.load(str(tmp_path / "small.model"))
    assert trained.pieces == 600
    assert trained.fingerprint in capsys.readouterr().out


def test_a_misspelt_key_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["tokenizer.plain_stesp=3"])
    assert left.value.code == 2
    assert "tokenizer.plain_steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tokenizer.plain_steps=6", "trainer.max_steps=6: must be more than tokenizer.plain_steps=6"),
        ("trainer.micro_batch=0", "trainer.micro_batch=0: must be greater than 0"),
        ("tokenizer.name=a/b", "tokenizer.name=a/b: must be fit for a file"),
        ("tokenizer.max_shift=64", "tokenizer.max_shift=64: must be at least 0 and below the 64 pixels"),
        ("tokenizer.crop_share=7", "tokenizer.crop_share=7.0: must lie between 0 and 1"),
        ("tokenizer.discriminator={start: 1, weight: 1, lr: 1, channels: 9, layers: 1}", "channels=9: must be a multiple of 8"),
        (
            "tokenizer.discriminator={start: 1, weight: 1, lr: 1, channels: 8, layers: 5}",
            "layers=5: leaves nothing",
        ),
        ("optim.muon_lr=-1", "optim.muon_lr=-1.0: must not be negative"),
        ("out=/dev/null", "out=/dev/null: /dev/null is a file; name a folder"),
        ("trainer.max_steps=0", "trainer.max_steps=0: must be greater than 0"),
        ("data.sequence_length=5", "data.sequence_length: no such key"),
        ("tokenizer.quantizer.kind=fsq", "tokenizer.quantizer.space=sphere: fsq's codes are a grid"),
        ("tokenizer.quantizer.kind=fqs", "tokenizer.quantizer.kind"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*SMALL, f"out={tmp_path / 'out'}", word, f"run.root={tmp_path / 'runs'}"])
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


TINY = """tokenizer=speech_vq tokenizer.name=small trainer.max_steps=30 tokenizer.plain_steps=10 trainer.global_batch=4
logger.wandb=disabled
tokenizer.architecture.codes=16 tokenizer.architecture.frame_channels=8 tokenizer.architecture.code_channels=8
tokenizer.architecture.code_dim=4 tokenizer.excerpt=20""".split()


VOICES = ("~data.sources.spoken", "~data.sources.prompts")


def test_a_speech_tokenizer_with_its_figures_sheet_and_sounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_voices(tmp_path / "voices")
    main(
        [*TINY, *VOICES, f"data.sources.triples.path={tmp_path / 'voices'}", f"out={tmp_path / 'out'}", f"run.root={tmp_path}"]
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "6 sounds to train on, 2 held out; 0.00 h; 1 cannot be used: " in out
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
    ("path", "message"),
    [
        ("nowhere", "data.sources.triples.path=nowhere: no such file or folder"),
        (".", "no metadata.csv"),
    ],
)
def test_folders_without_sounds_are_one_line(
    tmp_path: Path, path: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [f"data.sources.triples.path={path}", f"out={tmp_path / 'out'}", f"run.root={tmp_path / 'runs'}"]
    with pytest.raises(SystemExit) as left:
        main([*TINY, *VOICES, *folders])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
