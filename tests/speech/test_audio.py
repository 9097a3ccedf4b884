from __future__ import annotations

import struct
import sys

import numpy as np
import pytest

from momafuse.errors import UserError
from momafuse.speech.audio import read_audio, spectrogram
from tests.speech.sounds import encoded, voice


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_every_kind_of_file_gives_the_same_sound(kind: str, rate: int) -> None:
    sound = voice(1.5, rate)
    read = read_audio(encoded(sound, rate, kind), 8_000)
    assert read.dtype == np.float32
    assert abs(len(read) - 12_000) < 1_000  # MP3 pads
    wav = read_audio(encoded(sound, rate), 8_000)
    quiet = np.correlate(np.pad(read, 1200), wav, "valid").max() / np.square(wav).sum()
    assert quiet > 0.9  # the same wave, maybe shifted


def test_channels_are_mixed_down() -> None:
    sound = voice(0.5, 16_000)
    eight = np.stack([sound * (c == 3) * 8 * 0.1 for c in range(8)], axis=1)
    np.testing.assert_allclose(read_audio(encoded(eight, 16_000), 16_000), 0.1 * sound, atol=1e-4)


def test_two_hours_fit() -> None:
    sound = np.tile(voice(10, 8_000), 720)
    read = read_audio(encoded(sound, 8_000), 8_000)
    assert len(read) == 2 * 3600 * 8_000
    np.testing.assert_allclose(read[:1000], sound[:1000], atol=1e-3)


def header(rate: int) -> bytes:
    """A WAV of a true sound whose header names `rate`."""
    data = bytearray(encoded(voice(0.2, 8_000), 8_000))
    data[24:28] = struct.pack("<I", rate)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no sound that can be decoded"),
        (b"RIFF but not quite", "no sound that can be decoded"),
        (encoded(np.zeros(0, np.float32), 8_000), "no samples"),
        (encoded(np.zeros(8_000, np.float32), 8_000), "silence"),
        (encoded(np.full(800, np.nan, np.float32), 8_000, subtype="FLOAT"), "not finite"),
        (header(50), "its header says 50 samples a second"),
        (header(2_000_000), "its header says 2000000 samples a second"),
    ],
    ids=["empty", "text", "no samples", "silence", "nan", "slow header", "fast header"],
)
def test_what_cannot_be_used_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_audio(data, 8_000)


def test_a_file_cut_off_gives_what_is_there() -> None:
    whole = encoded(voice(1, 8_000), 8_000)
    assert 3_000 < len(read_audio(whole[: len(whole) // 2], 8_000)) < 5_000


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(UserError, match=r"needs soxr; pip install 'momafuse\[speech\]'"):
        read_audio(b"", 8_000)


def test_a_spectrogram_shows_the_frequency() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(8_000) / 8_000).astype(np.float32)
    shown = spectrogram(tone)
    assert shown.shape[0] == 257
    assert set(shown.argmax(axis=0)) == {64}  # 1000 of 4000 Hz in 256 rows
    assert shown.max() == 1.0
    assert spectrogram(tone[:5]).shape == (257, 1)
