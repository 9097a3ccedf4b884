"""`python -m momafuse.train_tokenizer`, with a tokenizer that trains in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from momafuse.tokens.text import TextTokenizer
from momafuse.train_tokenizer import main
from momafuse.vision.tokenizer import ImageTokenizer

SMALL = """tokenizer=starter_vq tokenizer.name=small tokenizer.steps=6 tokenizer.plain_steps=3 tokenizer.batch=8
tokenizer.architecture.codes=64 tokenizer.architecture.encoder_channels=[8,8] tokenizer.architecture.encoder_blocks=[0,1]
tokenizer.architecture.decoder_channels=[8,8,8] tokenizer.architecture.decoder_blocks=[1,0,0]""".split()


def test_an_image_tokenizer_with_its_figures_and_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, f"out={tmp_path}"])
    out = capsys.readouterr().out
    assert "codes used" in out
    assert "PSNR held out (" in out
    figures = json.loads((tmp_path / "small.json").read_text("utf-8"))
    assert figures["config"]["steps"] == 6
    assert figures["heldout"]["pictures"] + figures["train"]["pictures"] > 3000
    assert 5 < figures["heldout"]["psnr_pooled"] < 40
    tokenizer = ImageTokenizer.load(str(tmp_path / "small.safetensors"))
    assert (tokenizer.codes, tokenizer.block) == (64, 64)
    assert tokenizer.fingerprint in out
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")


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
