"""Codec2 at 700 bits a second (mode 700C; D. Rowe, rowetel.com) as a codec of speech: nothing to train, and it is understood.

40 ms are 28 bits: two stages of a vector quantizer of the spectrum (9 bits each), energy (4), pitch (6). Each field is a code
of its own range, in this order, so a second is 25 frames of 4 codes:

    0..511 first stage    512..1023 second    1024..1039 energy    1040..1103 pitch

Speech of 8,000 samples a second; every item is encoded from the encoder's initial state. Wants the extra `speech` (pycodec2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from momafuse.errors import UserError
from momafuse.speech.audio import Samples, optional, read_audio, sound_file, spectrogram

NAME = "codec2_700c"
RATE = 8_000  # samples a second
FRAME = 320  # samples
FIELDS = (9, 9, 4, 6)  # bits
FIRSTS = (0, 512, 1024, 1040)  # the first code of each
Codes = npt.NDArray[np.int64]


class Codec2:
    """Items are samples (n,) float32 at `RATE`."""

    codes, block = 1104, 0
    fingerprint = hashlib.sha256(b"codec2 700C: 9 9 4 6 bits").hexdigest()

    @classmethod
    def load(cls, name: str, device: str = "cpu") -> Codec2:
        """Raises UserError for another name, and where pycodec2 is not installed."""
        if name != NAME:
            raise UserError(f"tokenizer.speech={name}: no such codec of speech; there is {NAME}")
        optional("pycodec2", f"tokenizer.speech={name}")
        return cls()

    def read(self, data: bytes) -> Samples:
        return read_audio(data, RATE)

    def vary(self, item: Samples, key: str, variant: int, texts: Sequence[str]) -> Samples:
        return item

    def encode(self, items: Sequence[Samples]) -> list[Codes]:
        return [self._encode(item) for item in items]

    def decode(self, codes: Codes) -> Samples:
        """Frames are four codes in order; what stands between whole frames (of a cut or a sampled row) is left out."""
        coder = _coder()
        parts: list[npt.NDArray[np.int16]] = [np.zeros(0, np.int16), *map(coder.decode, packed(codes))]
        samples: Samples = np.concatenate(parts).astype(np.float32) / np.float32(32768)
        return samples

    def file(self, item: Samples) -> tuple[str, bytes]:
        return "wav", sound_file(item, RATE)

    def drawn(self, items: Sequence[Samples]) -> list[npt.NDArray[np.float64]]:
        return [spectrogram(item) for item in items]

    def _encode(self, item: Samples) -> Codes:
        coder = _coder()
        frames = -(-len(item) // FRAME)
        samples = np.pad(np.round(item * 32767).astype(np.int16), (0, frames * FRAME - len(item)))
        packed = b"".join(coder.encode(frame) for frame in samples.reshape(frames, FRAME))
        rest = np.frombuffer(packed, ">u4").astype(np.int64) >> 4
        columns = []
        for first, bits in zip(FIRSTS[::-1], FIELDS[::-1], strict=True):
            columns.append(first + (rest & ((1 << bits) - 1)))
            rest = rest >> bits
        return np.stack(columns[::-1], axis=1).reshape(-1)


def packed(codes: Codes) -> list[bytes]:
    """The 28 bits, in 4 bytes, of every whole frame in a row of codes."""
    field = np.searchsorted(FIRSTS, codes, side="right") - 1
    frames = []
    for start in (i for i in range(len(codes) - 3) if field[i : i + 4].tolist() == [0, 1, 2, 3]):
        number = 0
        for value, first, bits in zip(codes[start : start + 4].tolist(), FIRSTS, FIELDS, strict=True):
            number = number << bits | (value - first)
        frames.append((number << 4).to_bytes(4, "big"))
    return frames


def _coder() -> Any:
    """A coder in its initial state, to encode or to decode one item."""
    return optional("pycodec2", f"tokenizer.speech={NAME}").Codec2(700)
