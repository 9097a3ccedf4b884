"""Every arm of the study is a config whose quantizer can be built, and the page has a line for each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from study_quantizers import ARMS, folder_of, overrides, page, run

from momafuse.config.compose import compose_jobs
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.vision.config import VQConfig
from momafuse.vq.quantizer import FiniteScalar, VectorQuantizer, build_quantizer

QUALITY = {"pictures": 111, "psnr_pooled": 22.0, "psnr_mean": 24.0, "ssim": 0.8, "perceptual": None}
REPORT = {
    "codes": 8192,
    "codes_used": 4096,
    "perplexity": 1000.0,
    "kernel_distance": None,
    "heldout": QUALITY,
    "train": QUALITY,
    "config": {
        "trainer": {"max_steps": 7, "global_batch": 2},
        "run": {"seed": 0},
        "tokenizer": {"architecture": {"image_size": 64}},
    },
}


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_a_quantizer(name: str) -> None:
    words = ["tokenizer=starter_vq", *overrides(ARMS[name])]
    (job,) = compose_jobs(words, "train_tokenizer", TokenizerTraining)
    config = job.config.tokenizer
    assert isinstance(config, VQConfig)
    built = build_quantizer(config.architecture, config.quantizer)
    assert isinstance(built, FiniteScalar if "scalar" in name else VectorQuantizer)
    assert (config.quantizer.estimator == "rotation") == ("rotation" in name)
    assert config.quantizer.restart_below == (0.1 if "restart" in name or "ours" in name or "scalar" in name else 0)


def test_later_words_win() -> None:
    assert overrides("kind=learned PLAIN=0 kind=sim") == ["tokenizer.quantizer.kind=sim", "tokenizer.plain_steps=0"]


def test_what_is_there_is_not_trained_again_and_fills_the_page(tmp_path: Path) -> None:
    name = "SimVQ"
    folder_of(name, tmp_path).mkdir()
    (folder_of(name, tmp_path) / "tokenizer.json").write_text(json.dumps(REPORT))
    found = run(name, argparse.Namespace(root=tmp_path, steps=7, set=[]))
    text = page({name: found}, "python scripts/study_quantizers.py")
    assert "| SimVQ | 4,096 (50.0%) | 1,000 | 22.00 dB | 24.00 dB | 0.800 | - | - |" in text
    assert "7 steps of 2 pictures of 64 px" in text


def test_a_failure_names_its_last_line(tmp_path: Path) -> None:
    asked = argparse.Namespace(root=tmp_path, steps=7, set=["tokenizer.plain_stesp=3"])
    with pytest.raises(RuntimeError, match=r"SimVQ: .*tokenizer\.plain_steps.*whole output"):
        run("SimVQ", asked)
