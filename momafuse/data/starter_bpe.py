"""Trains the BPE on the text that a user may train on: captions and glosses of the starter pack's training split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from momafuse.config.schema import SourceConfig
from momafuse.data.sources import open_source
from momafuse.tokens.config import BPEConfig
from momafuse.tokens.text import TextTokenizer, train_bpe

SOURCES = ("starter_pictures", "starter_glosses")


def starter_texts() -> Iterator[str]:
    """The training texts, in the sources' order."""
    for name in SOURCES:
        for item in open_source(name, SourceConfig(reader=name, path=None, weight=1.0, variants=1)).items():
            if item.split == "train":
                yield from (segment for segment in item.segments if isinstance(segment, str))


def train_starter_bpe(config: BPEConfig, out: Path) -> TextTokenizer:
    """Writes OUT/NAME.model, whole or not at all, and returns it. Raises UserError where `config.pieces` is too many."""
    path = out / f"{config.name}.model"
    model = train_bpe(starter_texts(), config)
    tokenizer = TextTokenizer(str(path), model)
    out.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_bytes(model)
    aside.replace(path)
    return tokenizer
