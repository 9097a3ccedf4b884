"""The measures of the speech study: words against what was said, frames against what was heard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from speech_study.frames import Error, distance, telephone_bands
from speech_study.words import plain, recognised

from momafuse.speech.mel import RATE
from tests.speech.sounds import voice


def test_words_are_counted_where_they_stand_in_order() -> None:
    said = plain("Please press 1, then the #-key. Don't wait!")
    assert said == ["please", "press", "one", "then", "the", "key", "don't", "wait"]
    assert recognised(said, said) == set(range(8))
    assert recognised(said, ["please", "then", "the", "wait", "key"]) in ({0, 3, 4, 7}, {0, 3, 4, 5})
    assert recognised(said, []) == set()


def test_distance_knows_delay_and_loudness_from_damage() -> None:
    sound = voice(1.0, RATE)
    late = np.pad(0.3 * sound, (480, 0)).astype(np.float32)
    assert 20 * float(distance(sound, late, 80)[:, :-8].abs().mean()) < 0.5, "dB"
    damaged = sound + 0.05 * np.random.default_rng(0).standard_normal(len(sound)).astype(np.float32)
    assert 20 * float(distance(sound, damaged, 80).abs().mean()) > 5
    assert float(distance(sound, np.zeros(0, np.float32), 80).abs().mean()) > 0.3


def test_errors_are_pooled() -> None:
    error = Error()
    for value in (0.1, -0.3):
        error.add(torch.full((2, 3), value))
    assert error.mean == pytest.approx(4.0)
    assert error.rms == pytest.approx((20 * 20 * (0.01 + 0.09) / 2) ** 0.5)
    assert 40 < telephone_bands() < 70
