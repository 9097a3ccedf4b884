"""Log-mel frames against their definition as plain loops, and the way back by what is heard again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from momafuse.speech import mel
from momafuse.speech.mel import BANDS, FLOOR, HOP, RATE, SIZE, WINDOW, log_mel, waveform
from tests.speech.sounds import voice


def by_loops(samples: np.ndarray, frame: int) -> list[float]:
    """One frame: window, discrete Fourier sums, triangles, logarithm."""
    centre = int((frame + 0.5) * HOP)
    taken = [
        samples[i] * (0.5 - 0.5 * math.cos(2 * math.pi * k / WINDOW)) if 0 <= i < len(samples) else 0.0
        for k, i in enumerate(range(centre - WINDOW // 2, centre + WINDOW // 2))
    ]
    scale = 2 / sum(0.5 - 0.5 * math.cos(2 * math.pi * k / WINDOW) for k in range(WINDOW))
    turn = np.exp(-2j * np.pi * np.outer(np.arange(SIZE // 2 + 1), np.arange(WINDOW)) / SIZE)
    magnitudes = np.abs(turn @ np.array(taken)) * scale
    corner = [700 * (10 ** (k / (BANDS + 1) * math.log10(1 + RATE / 2 / 700)) - 1) for k in range(BANDS + 2)]
    out = []
    for band in range(BANDS):
        low, mid, high = corner[band : band + 3]
        weights = [
            max(0.0, min((f - low) / (mid - low), (high - f) / (high - mid)))
            for f in (b * RATE / SIZE for b in range(SIZE // 2 + 1))
        ]
        out.append(
            max(FLOOR, math.log10(max(1e-9, sum(w * m for w, m in zip(weights, magnitudes, strict=True)) / sum(weights))))
        )
    return out


def test_frames_against_loops() -> None:
    samples = voice(0.2, RATE)
    frames = log_mel(torch.from_numpy(samples))
    assert frames.shape == (BANDS, 20)
    for frame in (0, 7, 19):
        assert frames[:, frame].tolist() == pytest.approx(by_loops(samples, frame), abs=2e-3)


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 10 * HOP + 7])
def test_a_frame_for_every_hop_begun(samples: int) -> None:
    assert log_mel(torch.ones(samples)).shape == (BANDS, -(-samples // HOP))


def test_minutes_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = torch.from_numpy(voice(1.0, RATE))
    whole = log_mel(samples)
    monkeypatch.setattr(mel, "MINUTE", 7)
    torch.testing.assert_close(log_mel(samples), whole, atol=1e-4, rtol=0)
    assert waveform(whole).shape == (16_000,)


def test_what_comes_back_has_the_same_frames_and_is_the_same_each_time() -> None:
    frames = log_mel(torch.from_numpy(voice(1.0, RATE)))
    samples = waveform(frames)
    assert samples.shape == (RATE,)
    assert torch.equal(samples, waveform(frames))
    error = 20 * float((log_mel(samples) - frames).abs().mean())
    assert error < 2, "dB; noise of the same loudness is about 15 away"
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert 20 * float((log_mel(noise) - frames).abs().mean()) > 8


def test_silence_and_nothing_come_back() -> None:
    silence = torch.full((BANDS, 12), FLOOR)
    samples = waveform(silence)
    assert 5e-4 < float(samples.std()) < 2e-3  # a room's hiss, which does not show in frames
    assert torch.equal(log_mel(samples), silence)
    assert waveform(torch.zeros(BANDS, 0)).shape == (0,)
