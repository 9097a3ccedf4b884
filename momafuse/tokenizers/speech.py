"""The speech tokenizer as a task: the speech of any source, and what lies beside its weights.

OUT/NAME.json (figures), .png (log-mel frames of held-out sounds and what is left of them), _original.wav and _decoded.wav (the
same sounds, one after the other).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from momafuse.config.tokenizers import TokenizerTraining
from momafuse.data.progress import Progress
from momafuse.data.sources import Item, Raw, open_source
from momafuse.errors import UserError
from momafuse.reports.plots import plot_reconstructions
from momafuse.speech.audio import Samples, read_audio, sound_file
from momafuse.speech.autoencoder import SpeechAutoencoder
from momafuse.speech.config import SpeechArchitecture, SpeechVQConfig
from momafuse.speech.mel import RATE
from momafuse.speech.report import SpeechQuality, measure
from momafuse.speech.tokenizer import SpeechTokenizer, frames_of, levelled, save_tokenizer
from momafuse.speech.training import Excerpts, Sound, frame_losses
from momafuse.tokenizers.task import Say, Task
from momafuse.vq.codes import CodeTable

SHEET = 16  # held-out sounds on the sheet, spread over the sources
MEASURED = 400  # training sounds that the finished tokenizer is measured on
JUDGED = 64  # held-out sounds that are judged on the way


class SpeechTask(Task[SpeechAutoencoder]):
    item: ClassVar[str] = "excerpt"

    config: SpeechVQConfig
    architecture: SpeechArchitecture

    def __init__(self, config: SpeechVQConfig, job: TokenizerTraining) -> None:
        """Reads all sounds. Raises UserError where there is nothing to train on or to hold out."""
        self.config, self.architecture = config, config.architecture
        sounds, self._shown, self.rejects, self.data = _read(job)
        rejected = len(self.rejects)
        self._train, self._heldout = ([sound for sound in sounds if sound.heldout is wanted] for wanted in (False, True))
        self.reads = f"data.sources={{{', '.join(job.data.sources)}}}"
        for kind, found in (("to train on", self._train), ("to hold out", self._heldout)):
            if not found:
                raise UserError(f"{self.reads}: no sound {kind} ({rejected} cannot be used); give more")
        self._excerpts = Excerpts(config.excerpt, job.run.seed, self._train)
        hours = sum(sound.frames.shape[1] for sound in sounds) / 360_000
        counts = f"{len(self._train)} sounds to train on, {len(self._heldout)} held out"
        self.summary = f"{counts}; {hours:.2f} h"

    def model(self) -> SpeechAutoencoder:
        return SpeechAutoencoder(self.architecture)

    def batch(self, numbers: Sequence[int]) -> Tensor:
        return self._excerpts.batch(numbers)

    def losses(self, device: torch.device) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        return frame_losses

    def save(self, path: Path, model: SpeechAutoencoder, codes: CodeTable) -> None:
        save_tokenizer(path, self.architecture, model, codes)

    def judged(self, weights: Path, device: torch.device) -> dict[str, float]:
        found = measure(SpeechTokenizer.load(str(weights), str(device)), self._heldout[:: -(-len(self._heldout) // JUDGED)])
        return {"eval/error_db": found.error, "eval/perplexity": found.perplexity}

    def sheet(self, weights: Path, picture: Path, device: torch.device) -> None:
        tokenizer, sounds = SpeechTokenizer.load(str(weights), str(device)), list(self._shown.values())
        decoded = [tokenizer.decode(codes) for codes in tokenizer.encode(sounds)]
        plot_reconstructions(tokenizer.drawn(sounds), tokenizer.drawn(decoded), list(self._shown), picture)

    def finish(self, weights: Path, more: Mapping[str, object], device: torch.device, say: Say) -> dict[str, object]:
        tokenizer, path = SpeechTokenizer.load(str(weights), str(device)), weights.parent / self.config.name
        quality = {"heldout": measure(tokenizer, self._heldout), "train": measure(tokenizer, self._train[:MEASURED])}
        figures: dict[str, object] = {name: dataclasses.asdict(part) for name, part in quality.items()}
        figures |= {"sha256": tokenizer.fingerprint, **more}
        weights.with_name(f"{self.config.name}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        self.sheet(weights, weights.with_name(f"{self.config.name}.png"), device)
        sounds = list(self._shown.values())
        decoded = [tokenizer.decode(codes) for codes in tokenizer.encode(sounds)]
        for kind, items in (("original", sounds), ("decoded", decoded)):
            row = np.concatenate([_with_pause(item) for item in items])
            weights.with_name(f"{self.config.name}_{kind}.wav").write_bytes(sound_file(row, RATE))
        for name, part in quality.items():
            say(_line(name, part, tokenizer.codes))
        say(f"{weights}  sha256 {tokenizer.fingerprint}")
        say(f"figures {path}.json, frames {path}.png; to listen to: {path}_original.wav, {path}_decoded.wav")
        return figures


def _read(job: TokenizerTraining) -> tuple[list[Sound], dict[str, Samples], list[tuple[str, str]], str]:
    """Every sound that can be used, as frames; some held-out ones by what is said in them (or by key); what cannot be used,
    and why; the fingerprint of all that can."""
    sounds: list[Sound] = []
    shown: dict[str, Samples] = {}
    rejects, digest = list[tuple[str, str]](), hashlib.sha256()
    with Progress() as progress:
        for name, config in job.data.sources.items():
            source = open_source(name, config)
            digest.update(f"{name}\0{source.fingerprint}\n".encode())
            progress.source(name, source.documents, 0)
            room = len(shown) + -(-SHEET // len(job.data.sources))
            for item in source.items():
                progress.advance(1)
                for raw in (s for s in item.segments if isinstance(s, Raw) and s.modality == "speech"):
                    try:
                        samples = levelled(read_audio(raw.read(), RATE))
                    except (OSError, ValueError) as error:
                        rejects.append((f"{name}/{item.key}", " ".join(str(error).split())))
                        digest.update(f"without {name}/{item.key}\n".encode())
                        continue
                    sounds.append(Sound(frames_of(samples).half(), item.split == "validation", config.weight))
                    if item.split == "validation" and len(shown) < room:
                        shown[_said(item)] = samples
    return sounds, shown, rejects, digest.hexdigest()


def _said(item: Item) -> str:
    return " ".join(s for s in item.segments if isinstance(s, str)) or item.key


def _with_pause(samples: Samples) -> Samples:
    return np.pad(samples, (0, RATE // 2))


def _line(name: str, part: SpeechQuality, codes: int) -> str:
    return (
        f"{name} ({part.sounds} sounds, {part.seconds / 60:.1f} min): {part.codes_used} of {codes} codes used in {part.places} "
        f"places, perplexity {part.perplexity:.0f}; log-mel error {part.error:.2f} dB, rms {part.error_rms:.2f} dB"
    )
