"""How well tokenizers fit the items of a corpus's sources: what is left of a sample after its codes, as the codec measures it.

A model can draw no better than its tokenizer keeps. Codecs that cannot say (a plugin's, or one that only encodes) are passed
over. Writes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from momafuse.config.schema import Config, SourceConfig
from momafuse.data import chunks
from momafuse.data.codecs import Codes, decodes, load_codecs
from momafuse.data.sources import Item, Raw, open_source

SAMPLE = 64  # items, spread over the first documents of a source
FIRST = 4096
WORST = 5


@runtime_checkable
class Judge(Protocol):
    """A codec that can say how much it keeps of items, in `unit`; more is better, and a mean below `poor` is too little."""

    unit: str
    poor: float

    def restore(self, codes: Sequence[Codes]) -> list[Any]:
        """What each item's codes stand for: `decode` of many."""

    def judge(self, items: Sequence[Any], decoded: Sequence[Any]) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True)
class Fit:
    source: str
    modality: str
    values: npt.NDArray[np.float64]  # of each item of the sample
    unit: str
    poor: bool
    worst: list[tuple[str, Any, Any]]  # value and key, item, what is left of it; the worst first, as reports.plots draws them


def fits(
    config: Config, held: Mapping[str, Collection[str]] | None = None, say: Callable[[str], None] = lambda line: None
) -> Iterator[Fit]:
    """Of every source and modality; `held` may say of which a source has items. `say` is told of a source that has to be tried
    again, and of a tokenizer that only encodes. Raises UserError where a source cannot be read any more."""
    codecs = {}
    for modality, codec in load_codecs(config.tokenizer).items():
        if not decodes(codec):
            say(f"tokenizer.{modality}={config.tokenizer[modality]} has no decoder: how much it keeps cannot be told")
        elif isinstance(codec, Judge):
            codecs[modality] = codec
    for name, source in config.data.sources.items():
        for modality in [m for m in codecs if held is None or m in held.get(name, ())]:
            codec = codecs[modality]
            keys, items = _sample(name, source, modality, codec, say)
            if not items:
                continue
            decoded = codec.restore(codec.encode(items))
            values = codec.judge(items, decoded)
            order = [int(n) for n in np.argsort(values)[:WORST]]
            drawn = [codec.drawn([side[n] for n in order]) for side in (items, decoded)]
            labels = [f"{values[n]:.1f}: {keys[n].rpartition('/')[2]}" for n in order]
            worst = list(zip(labels, *drawn, strict=True))
            yield Fit(name, modality, values, codec.unit, bool(values.mean() < codec.poor), worst)


def _sample(
    name: str, config: SourceConfig, modality: str, codec: Any, say: Callable[[str], None]
) -> tuple[list[str], list[Any]]:
    """Keys and decoded items; those that cannot be used are passed over, as in the corpus. Reads the source twice, since its
    documents may be too large to be kept until it is known which are wanted."""

    def of(document: Item) -> list[Raw]:
        return [s for s in document.segments if isinstance(s, Raw) and s.modality == modality]

    source = open_source(name, config)
    few = FIRST if config.limit is None else min(FIRST, config.limit)
    holding = [n for n, document in enumerate(chunks.read(name, source, 0, few, say)) if of(document)]
    wanted = {holding[int(at)] for at in np.linspace(0, len(holding) - 1, min(SAMPLE, len(holding)))}
    keys, items = [], []
    for n, document in enumerate(chunks.read(name, source, 0, max(wanted, default=-1) + 1, say)):
        with contextlib.suppress(OSError, ValueError):
            if n in wanted:
                items.append(codec.read(of(document)[0].read()))
                keys.append(document.key)
    return keys, items
