"""The speech tokenizer of our own, a codec (data/codecs.py): samples <-> codes, 25 a second, frozen, inference only.

Sounds are levelled, cut into log-mel frames (mel.py) and encoded; codes are decoded to frames, and frames to samples. Any
trained tokenizer loads by its path (vq/weights.py). All products are fp32, item by item, so that an item has the same codes
whatever batch it comes in; long ones go in pieces with so much around them that the pieces make the same codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from momafuse.speech.audio import Samples, read_audio, sound_file
from momafuse.speech.autoencoder import FOLD, SpeechAutoencoder, reach
from momafuse.speech.config import SpeechArchitecture
from momafuse.speech.mel import BANDS, FLOOR, HOP, RATE, log_mel, waveform
from momafuse.vq.codes import CodeTable
from momafuse.vq.weights import Kind, load_weights, save_weights

KIND = Kind(
    "momafuse-speech-vq-1",
    "tokenizer.speech",
    "a speech tokenizer",
    shipped="starter_speech_v1 or codec2_700c",
    training="speech_vq",
)
PIECE = 1500  # codes computed at a time: a minute
LEVEL = 0.1  # root mean square of the louder frames of an item
CODE_SAMPLES = FOLD * HOP
Codes = npt.NDArray[np.int64]


class SpeechTokenizer:
    """Items are samples (n,) float32, mono, 16,000 a second; `fingerprint`: the file's sha256."""

    block = 0  # any number of codes: ceil(n / 640)

    def __init__(
        self, name: str, arch: SpeechArchitecture, model: SpeechAutoencoder, codes: CodeTable, fingerprint: str
    ) -> None:
        self.name = name
        self.codes = arch.codes
        self.fingerprint = fingerprint
        self._margin = reach(arch)
        self._codes = codes
        self._model = model.eval().requires_grad_(False)

    @classmethod
    def load(cls, name_or_path: str, device: str = "cpu") -> SpeechTokenizer:
        """A packaged name ("starter_speech_v1") or the path of a weights file; UserError if missing or damaged."""
        arch, model, codes, fingerprint = load_weights(name_or_path, KIND, SpeechArchitecture, SpeechAutoencoder, device)
        return cls(Path(name_or_path).stem, arch, model, codes, fingerprint)

    def read(self, data: bytes) -> Samples:
        return levelled(read_audio(data, RATE))

    def vary(self, item: Samples, key: str, variant: int, texts: Sequence[str]) -> Samples:
        return item

    def encode(self, items: Sequence[Samples]) -> list[Codes]:
        return [self.codes_of(frames_of(item)) for item in items]

    def decode(self, codes: Codes) -> Samples:
        """-> (640 L,) samples. Raises ValueError for codes that are not 0..codes-1."""
        samples: Samples = waveform(self.frames_from(codes)).numpy()
        return samples

    def file(self, item: Samples) -> tuple[str, bytes]:
        return "wav", sound_file(item, RATE)

    def drawn(self, items: Sequence[Samples]) -> list[npt.NDArray[np.float64]]:
        """Log-mel frames in [0, 1], the lowest band first."""
        return [(1 - log_mel(torch.from_numpy(item)) / FLOOR).double().numpy() for item in items]

    @torch.inference_mode()
    def codes_of(self, frames: Tensor) -> Codes:
        """(80, 4L) log-mel frames -> (L,) codes."""
        out = [np.zeros(0, np.int64)]
        for begin, end, first, last in self._pieces(frames.shape[1] // FOLD):
            vectors = self._model.encode(frames[None, :, FOLD * begin : FOLD * end].to(self._codes.device))[0]
            out.append(self._codes.nearest(vectors[first:last]).cpu().numpy())
        return np.concatenate(out)

    @torch.inference_mode()
    def frames_from(self, codes: Codes) -> Tensor:
        """(L,) codes -> (80, 4L) log-mel frames. Raises ValueError for codes that are not 0..codes-1."""
        if codes.size and not (int(codes.min()) >= 0 and int(codes.max()) < self.codes):
            raise ValueError(f"codes are {int(codes.min())}..{int(codes.max())}; need 0..{self.codes - 1}")
        vectors = self._codes[torch.from_numpy(codes).to(self._codes.device)]
        out = [torch.zeros(BANDS, 0)]
        for begin, end, first, last in self._pieces(len(codes)):
            frames = self._model.decode(vectors[None, begin:end])[0]
            out.append(frames[:, FOLD * first : FOLD * last].cpu().clamp(min=FLOOR))
        return torch.cat(out, dim=1)

    def _pieces(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """What to compute (begin, end) and what of it to keep (first, last), in codes."""
        for start in range(0, length, PIECE):
            begin, stop = max(0, start - self._margin), min(length, start + PIECE)
            yield begin, min(length, stop + self._margin), start - begin, stop - begin


def levelled(samples: Samples) -> Samples:
    """Of the 40 ms frames all but the loudest twentieth are at most at `LEVEL` then: loudness is no news. Clips at 1."""
    whole = np.pad(samples, (0, -len(samples) % CODE_SAMPLES)).reshape(-1, CODE_SAMPLES)
    loud = float(np.quantile(np.sqrt(np.mean(np.square(whole), axis=1)), 0.95, method="higher"))
    out: Samples = np.clip(samples * np.float32(LEVEL / loud), -1, 1)
    return out


def frames_of(samples: Samples) -> Tensor:
    """(n,) samples -> (80, 4L) log-mel frames, L = ceil(n / 640); the last code is filled with silence."""
    frames = log_mel(torch.from_numpy(samples))
    return F.pad(frames, (0, -frames.shape[1] % FOLD), value=FLOOR)


def save_tokenizer(path: Path, arch: SpeechArchitecture, model: SpeechAutoencoder, codes: CodeTable) -> None:
    """Writes the weights file (fp16), aside and then renamed."""
    save_weights(path, KIND, arch, model, codes)
