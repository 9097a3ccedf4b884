"""Log-mel frames of speech, and samples again from such frames.

A frame is 10 ms: the magnitudes of a Hann window of 40 ms, summed in 80 triangles that stand evenly on the mel scale of
O'Shaughnessy, m = 2595 log10(1 + f / 700), from 0 to 8,000 Hz, and their common logarithm, within 70 dB of full scale:

    L = max(log10(mel), FLOOR)      a sine of full scale gives about -0.3; FLOOR = -3.5

The way back takes magnitudes by the pseudoinverse of the triangles and finds phases by Griffin and Lim's iterations (IEEE
TASSP 32, 1984) with momentum (Perraudin et al., WASPAA 2013), from phases that are drawn once: the same frames give the same
samples. Under all lies white noise too weak to show in the frames, for no room is silent: of the words that a recogniser finds
in recorded speech, it found a third as many over digital silence. Shapes: n samples at `RATE`, T = ceil(n / HOP) frames.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RATE = 16_000  # samples a second
HOP = 160  # samples
BANDS = 80
FLOOR = -3.5
WINDOW = 640  # samples
SIZE = 1024  # of the transform
BEFORE = SIZE // 2 - HOP // 2  # samples from the first of a transform to its frame's first
MINUTE = 6_000  # frames
ROUNDS = 60
MOMENTUM = 0.99
HISS = 1e-3  # standard deviation; L = -4.0


def log_mel(samples: Tensor) -> Tensor:
    """(n,) float32 -> (BANDS, T) float32, T = ceil(n / HOP); frame t is centred at sample (t + 1/2) HOP."""
    frames = -(-len(samples) // HOP)
    padded = F.pad(samples, (BEFORE, (frames - 1) * HOP + SIZE - BEFORE - len(samples)))
    out = [torch.zeros(BANDS, 0)]
    for start in range(0, frames, MINUTE):  # hours cost the memory of the result
        count = min(MINUTE, frames - start)
        magnitudes = _transform(padded[start * HOP : (start + count - 1) * HOP + SIZE]).abs() * (2 / float(_window().sum()))
        out.append((_triangles() @ magnitudes).clamp(min=10**FLOOR).log10())
    return torch.cat(out, dim=1)


def waveform(frames: Tensor) -> Tensor:
    """(BANDS, T) as `log_mel` gives them -> (T HOP,) float32 in [-1, 1], minute by minute."""
    out = [torch.zeros(0)]
    for part in torch.split(frames, MINUTE, dim=1) if frames.shape[1] else ():
        mel = torch.where(part > FLOOR + 0.05, 10 ** part.float(), torch.zeros(()))
        magnitudes = (_inverse() @ mel).clamp(min=0) * (float(_window().sum()) / 2)
        out.append(_griffin_lim(magnitudes)[BEFORE : BEFORE + part.shape[1] * HOP])
    samples = torch.cat(out)
    hiss = HISS * torch.randn(samples.shape, generator=torch.Generator().manual_seed(1))
    return (samples + hiss).clamp(-1, 1)


def _griffin_lim(magnitudes: Tensor) -> Tensor:
    """(SIZE / 2 + 1, T) -> ((T - 1) HOP + SIZE,) samples whose transform comes close to these magnitudes."""
    generator = torch.Generator().manual_seed(0)
    phases = torch.polar(torch.ones_like(magnitudes), 2 * torch.pi * torch.rand(magnitudes.shape, generator=generator))
    length = (magnitudes.shape[1] - 1) * HOP + SIZE
    before = torch.zeros_like(phases)
    for _ in range(ROUNDS):
        again = _transform(_samples(magnitudes * phases, length))
        phases = again + MOMENTUM * (again - before)
        phases = phases / phases.abs().clamp(min=1e-9)
        before = again
    return _samples(magnitudes * phases, length)


def _transform(samples: Tensor) -> Tensor:
    spectrum: Tensor = torch.stft(samples, SIZE, HOP, WINDOW, _window(), center=False, return_complex=True)
    return spectrum


def _samples(spectrum: Tensor, length: int) -> Tensor:
    """Least squares: frames under the window once more, over the sum of squared windows (zero where no window reaches)."""
    window = F.pad(_window(), ((SIZE - WINDOW) // 2,) * 2)
    frames = torch.fft.irfft(spectrum.T, SIZE) * window
    out, weight = _overlapped(frames)[:length], _overlapped(window.square().expand_as(frames))[:length]
    return torch.where(weight > 1e-4, out / weight.clamp(min=1e-4), torch.zeros(()))


def _overlapped(frames: Tensor) -> Tensor:
    """(T, SIZE) -> the sum of the frames, each HOP after the one before."""
    hops = -(-SIZE // HOP)
    parts = F.pad(frames, (0, hops * HOP - SIZE)).view(len(frames), hops, HOP)
    out = torch.zeros(len(frames) + hops - 1, HOP)
    for place in range(hops):
        out[place : place + len(frames)] += parts[:, place]
    return out.flatten()


@cache
def _window() -> Tensor:
    return torch.hann_window(WINDOW)


@cache
def _triangles() -> Tensor:
    """(BANDS, SIZE / 2 + 1): each rises from the centre before to its own and falls to the next; their areas are 1 bin."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    bins = np.arange(SIZE // 2 + 1) * RATE / SIZE
    rising = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    weights = triangles / np.maximum(triangles.sum(axis=1, keepdims=True), 1e-9)
    return torch.from_numpy(weights).float()


@cache
def _inverse() -> Tensor:
    inverse: Tensor = torch.linalg.pinv(_triangles())
    return inverse
