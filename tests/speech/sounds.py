"""Sounds that are made, not recorded: a voice-like tone with a moving pitch and vowels, and files of every kind."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile


def voice(seconds: float, rate: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """(n,) harmonics of a gliding pitch through two formants, in syllables."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    pitch = 110 + 30 * np.sin(2 * np.pi * rng.uniform(0.3, 0.8) * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    sound = np.zeros_like(t)
    formants = rng.uniform([300, 900], [800, 2200])
    for k in range(1, 25):
        weight = sum(np.exp(-(((k * pitch - f) / 150) ** 2)) for f in formants) + 0.02
        sound += np.where(k * pitch < rate / 2, weight, 0) * np.sin(k * phase) / k**0.5
    sound *= 0.5 + 0.5 * np.sin(2 * np.pi * 3 * t)
    return (0.5 * sound / max(1e-9, np.abs(sound).max())).astype(np.float32)


def encoded(samples: npt.NDArray[np.float32], rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """The bytes of a file; `samples` (n,) or (n, channels)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()
