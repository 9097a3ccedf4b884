"""Trains a BPE on the texts of a corpus's sources: captions and documents that are trained on, in the sources' order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from momafuse.config.schema import SourceConfig
from momafuse.data import chunks
from momafuse.data.sources import Raw, open_source
from momafuse.tokens.config import BPEConfig
from momafuse.tokens.sentencepieces import SentencePieces, train_bpe


def training_texts(sources: Mapping[str, SourceConfig], say: Callable[[str], None]) -> Iterator[str]:
    """Every text of a training document; `say` is told what each source comes to."""
    for name, config in sources.items():
        count, characters = 0, 0
        for item in chunks.read(name, open_source(name, config), 0, config.limit, say):
            if item.split == "train":
                for segment in item.segments:
                    if not isinstance(segment, Raw):
                        yield segment
                        count, characters = count + 1, characters + len(segment)
        say(f"{name}: {count:,} texts, {characters / 1e6:,.1f} million characters")


def train_text_tokenizer(
    config: BPEConfig, sources: Mapping[str, SourceConfig], out: Path, say: Callable[[str], None] = lambda line: None
) -> SentencePieces:
    """Writes OUT/NAME.model, whole or not at all, and returns it. Raises UserError where `config.pieces` is too many."""
    path = out / f"{config.name}.model"
    model = train_bpe(training_texts(sources, say), config)
    tokenizer = SentencePieces(str(path), model)
    out.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_bytes(model)
    aside.replace(path)
    return tokenizer
