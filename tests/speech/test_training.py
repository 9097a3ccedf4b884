"""Training on made voices: it learns, it repeats, and excerpts hold what the sounds hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from momafuse.speech.config import SpeechVQConfig
from momafuse.speech.mel import BANDS, FLOOR, RATE
from momafuse.speech.report import measure
from momafuse.speech.tokenizer import SpeechTokenizer, frames_of
from momafuse.speech.training import Sound, excerpts, train_speech
from tests.speech.conftest import ARCH
from tests.speech.sounds import voice
from tests.vq.quantizers import EMA, config

CONFIG = SpeechVQConfig(
    kind="speech_vq", name="tiny", architecture=ARCH, folders=(), excerpt=12, seed=0, steps=400, plain_steps=100, batch=8,
    lr=5e-3, muon_lr=0.02, warmup_steps=5, weight_decay=0.01, weight_ema=0.9, quantizer=config(EMA),
)  # fmt: skip


@pytest.fixture(scope="module")
def sounds() -> list[Sound]:
    return [Sound(frames_of(voice(1 + n % 3 / 2, RATE, n)).half(), n % 5 == 0) for n in range(20)]


def test_it_learns_and_what_is_written_is_what_was_measured(sounds: list[Sound], tmp_path: Path) -> None:
    train, heldout = ([s for s in sounds if s.heldout is wanted] for wanted in (False, True))
    steps: list[int] = []
    trained = train_speech(CONFIG, train, tmp_path, lambda step, figures: steps.append(step))
    assert steps == list(range(1, 401))
    found = measure(trained, heldout)
    mean = torch.cat([s.frames.float() for s in train], dim=1).mean(dim=1, keepdim=True)
    baseline = 20 * float(torch.cat([s.frames.float() - mean for s in heldout], dim=1).abs().mean())
    assert found.error < 0.8 * baseline, "dB, of a model that says the mean frame"
    assert found.sounds == 4
    assert found.places == sum(s.frames.shape[1] // 4 for s in heldout)
    assert 3 < found.perplexity <= found.codes_used <= 20
    assert measure(SpeechTokenizer.load(str(tmp_path / "tiny.safetensors")), heldout) == found


def test_one_seed_gives_one_tokenizer(sounds: list[Sound], tmp_path: Path) -> None:
    """Up to the last digits of products, which hang on where in memory their matrices lie."""
    short = dataclasses.replace(CONFIG, steps=12, plain_steps=4)
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_speech(dataclasses.replace(short, seed=seed), sounds, tmp_path / name)
        found.append(load_file(tmp_path / name / "tiny.safetensors"))
    first, same, other = found
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, same[name], atol=2e-3, rtol=0)
    assert float((first["codes"] - other["codes"]).abs().max()) > 0.1


def test_excerpts_come_from_everywhere_in_the_sounds() -> None:
    """Frames are numbered in the first band, so that an excerpt tells where it was taken."""
    lengths = (8, 400)
    numbered = [torch.arange(1.0, n + 1).expand(BANDS, n) for n in lengths]
    batches = excerpts(CONFIG, numbered, torch.Generator().manual_seed(0))
    seen: list[int] = []
    for _ in range(200):
        for excerpt in next(batches)[:, 0]:
            kept = excerpt[excerpt > FLOOR]
            assert len(kept) == 8 or len(kept) >= 42, "a short sound is whole, a long one fills all but an eighth"
            assert torch.equal(kept.diff(), torch.ones(len(kept) - 1)), "one piece"
            seen += kept.int().tolist()
    counts = torch.bincount(torch.tensor(seen), minlength=401)[1:]
    assert int(counts.min()) > 0, "every frame"
    assert float(counts[60:340].max() / counts[60:340].min()) < 2.2, "alike, away from the ends"
