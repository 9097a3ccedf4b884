"""Sound files (WAV, FLAC, Ogg, MP3: what libsndfile reads) to mono samples at the rate that a codec wants.

Files are read, mixed down and resampled in blocks: hours cost the memory of the result alone. Knows no codes (codec2.py).
"""

from __future__ import annotations

import io
import wave
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from momafuse.errors import UserError

Samples = npt.NDArray[np.float32]

BLOCK = 1 << 18  # samples read at a time
RATES = (1_000, 768_000)  # Hz; a header that says another is wrong
SILENCE = 1e-3  # of full scale, below which a whole file is nothing (-60 dB)


def optional(name: str, key: str) -> ModuleType:
    """A module of the extra `speech`. Raises UserError with `key` where it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{key}: needs {name}; pip install 'momafuse[speech]'") from error


def read_audio(data: bytes, rate: int) -> Samples:
    """-> (n,) float32 in [-1, 1], mono, n > 0, `rate` samples a second.

    Raises ValueError with the reason where it cannot be decoded or holds nothing to hear.
    """
    soundfile, soxr = (optional(name, "data.sources") for name in ("soundfile", "soxr"))
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if not RATES[0] <= file.samplerate <= RATES[1]:
                raise ValueError(f"its header says {file.samplerate} samples a second")
            samples = _resampled(file, soxr, rate)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"no sound that can be decoded ({' '.join(str(error).split())})") from error
    if not len(samples):
        raise ValueError("no samples")
    if not np.isfinite(samples).all():
        raise ValueError("samples that are not finite")
    if float(np.abs(samples).max()) < SILENCE:
        raise ValueError("silence")
    return np.clip(samples, -1, 1)


def sound_file(samples: Samples, rate: int) -> bytes:
    """(n,) in [-1, 1] -> a WAV file of 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return out.getvalue()


def spectrogram(samples: Samples, width: int = 512, hop: int = 128) -> npt.NDArray[np.float64]:
    """(n,) -> (width / 2 + 1, frames) in [0, 1]: log magnitudes within 80 dB of the loudest, the lowest frequency first."""
    padded = np.pad(samples, (0, max(0, width - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::hop] * np.hanning(width)
    level = 20 * np.log10(np.abs(np.fft.rfft(frames, axis=1)).T + 1e-9)
    shown: npt.NDArray[np.float64] = np.clip(1 + (level - level.max()) / 80, 0, 1)
    return shown


def _resampled(file: Any, soxr: ModuleType, rate: int) -> Samples:
    stream = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32")
    parts: list[Samples] = []
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        parts.append(stream.resample_chunk(block.mean(axis=1)))
    if parts:
        parts.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate([np.zeros(0, np.float32), *parts])
