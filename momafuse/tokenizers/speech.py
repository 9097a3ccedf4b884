"""A run that trains the speech tokenizer on folders of sounds.

Reads the speech of `tokenizer.folders` (data/sources/spoken_folder.py). Leaves OUT/NAME.safetensors, .json (figures), .png
(log-mel frames of held-out sounds and what is left of them), _original.wav and _decoded.wav (the same sounds, one after the
other).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from momafuse.config.schema import SourceConfig
from momafuse.data.progress import Progress
from momafuse.data.sources import Item, Raw, Source
from momafuse.data.sources.spoken_folder import spoken_folder
from momafuse.errors import UserError
from momafuse.reports.plots import plot_reconstructions
from momafuse.speech.audio import Samples, read_audio, sound_file
from momafuse.speech.config import SpeechVQConfig
from momafuse.speech.mel import RATE
from momafuse.speech.report import SpeechQuality, measure
from momafuse.speech.tokenizer import frames_of, levelled
from momafuse.speech.training import Sound, train_speech
from momafuse.tokenizers.bar import training_bar

SHEET = 16  # held-out sounds on the sheet
TRAINED = 400  # training sounds that are measured


def train_speech_tokenizer(config: SpeechVQConfig, out: Path, console: Console) -> None:
    """Raises UserError for a folder that is missing or holds nothing to train on or to hold out."""
    sounds, rejected = _read(config)
    train, heldout = ([sound for sound in sounds if sound.heldout is wanted] for wanted in (False, True))
    for kind, found in (("to train on", train), ("to hold out", heldout)):
        if not found:
            raise UserError(f"tokenizer.folders={list(config.folders)}: no sound {kind} ({rejected} cannot be used); give more")
    hours = sum(sound.frames.shape[1] for sound in sounds) / 360_000
    console.print(
        f"{len(train)} sounds to train on, {len(heldout)} held out, {rejected} cannot be used; {hours:.2f} h, "
        f"{torch.get_num_threads()} threads"
    )
    with training_bar(console, config.steps) as progress:
        trained = train_speech(config, train, out, progress)
    figures = {"heldout": measure(trained, heldout), "train": measure(trained, train[:TRAINED])}
    path = out / config.name
    written = {name: dataclasses.asdict(part) for name, part in figures.items()} | {"config": dataclasses.asdict(config)}
    Path(f"{path}.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    shown = _shown(config)
    decoded = [trained.decode(codes) for codes in trained.encode(list(shown.values()))]
    plot_reconstructions(trained.drawn(list(shown.values())), trained.drawn(decoded), list(shown), Path(f"{path}.png"))
    for kind, items in (("original", shown.values()), ("decoded", decoded)):
        row = np.concatenate([_with_pause(item) for item in items])
        path.with_name(f"{path.name}_{kind}.wav").write_bytes(sound_file(row, RATE))
    for name, part in figures.items():
        console.print(_line(name, part, trained.codes))
    console.print(f"{path}.safetensors  sha256 {trained.fingerprint}\nfigures {path}.json, frames {path}.png", soft_wrap=True)
    console.print(f"to listen to: {path}_original.wav, {path}_decoded.wav", soft_wrap=True)


def _read(config: SpeechVQConfig) -> tuple[list[Sound], int]:
    """Every sound that can be used, as frames, and how many cannot."""
    sounds: list[Sound] = []
    rejected = 0
    with Progress() as progress:
        for folder in config.folders:
            source = _source(folder)
            progress.source(folder, source.documents, 0)
            for item in source.items():
                progress.advance(1)
                try:
                    sounds.append(Sound(frames_of(_samples(item)).half(), item.split == "validation"))
                except (OSError, ValueError):
                    rejected += 1
    return sounds, rejected


def _shown(config: SpeechVQConfig) -> dict[str, Samples]:
    """Held-out sounds of all folders by what is said in them (or by key)."""
    each = -(-SHEET // len(config.folders))
    shown: dict[str, Samples] = {}
    for folder in config.folders:
        heldout = (item for item in _source(folder).items() if item.split == "validation")
        for item in itertools.islice(heldout, each):
            with contextlib.suppress(OSError, ValueError):
                shown[" ".join(s for s in item.segments if isinstance(s, str)) or item.key] = _samples(item)
    return shown


def _source(folder: str) -> Source:
    try:
        return spoken_folder(SourceConfig(reader="spoken_folder", path=folder, weight=1.0, variants=1))
    except UserError as error:
        raise UserError(f"tokenizer.folders: {error}; python scripts/fetch_corpus.py brings some") from error


def _samples(item: Item) -> Samples:
    """Raises OSError or ValueError for what cannot be used."""
    return levelled(read_audio(next(s for s in item.segments if isinstance(s, Raw) and s.modality == "speech").read(), RATE))


def _with_pause(samples: Samples) -> Samples:
    return np.pad(samples, (0, RATE // 2))


def _line(name: str, part: SpeechQuality, codes: int) -> str:
    return (
        f"{name} ({part.sounds} sounds, {part.seconds / 60:.1f} min): {part.codes_used} of {codes} codes used in {part.places} "
        f"places, perplexity {part.perplexity:.0f}; log-mel error {part.error:.2f} dB, rms {part.error_rms:.2f} dB"
    )
