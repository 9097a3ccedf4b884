"""A corpus of a few starter pictures and glosses, prepared with the shipped tokenizers: real data, a second to make."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from momafuse.config.compose import compose
from momafuse.config.schema import SourceConfig
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Item, Source, starter


@dataclasses.dataclass(frozen=True)
class Few(Source):
    """The first documents of each split of another source."""

    train: int = 0
    validation: int = 0

    def items(self, skip: int = 0) -> Iterator[Item]:
        kept = []
        for split, count in (("train", self.train), ("validation", self.validation)):
            kept += itertools.islice((item for item in super().items() if item.split == split), count)
        return iter(kept[skip:])


def few(reader, train: int, validation: int):
    def read(config: SourceConfig) -> Source:
        whole = reader(config)
        return Few(whole.dataset, f"{whole.fingerprint}-{train}-{validation}", train, validation)

    return read


def make_small_corpus(path: Path, monkeypatch, *overrides: str) -> Path:
    """48 + 24 pictures and 800 + 200 glosses under the names of the starter sources."""
    from momafuse.data.sources import registry

    small = {
        "starter_pictures": few(starter.starter_pictures, 48, 24),
        "starter_glosses": few(starter.starter_glosses, 800, 200),
    }
    with monkeypatch.context() as patch:
        for name, reader in small.items():
            patch.setitem(registry._READERS, name, reader)
        config = compose(["data.sources.starter_pictures.variants=1", *overrides]).config
        prepare_corpus(config, path)
    return path
