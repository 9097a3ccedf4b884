"""What a run makes of held-out pairs while it trains: items drawn for their texts, texts written for items.

Only where no row depends on later ones (auxiliary routers, or no routers at all), and where one process has the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from momafuse.config.schema import Config
from momafuse.data.codecs import decodes, load_codecs
from momafuse.data.corpus import KINDS, Split
from momafuse.generation.generator import Generator, Made
from momafuse.generation.sampling import Sampling
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT, Vocabulary
from momafuse.training.setup import Setup

PAIRS = 8  # of each modality
TEXT_TOKENS = 32
SAMPLING = Sampling(temperature=0.8, guidance=2.0)
Pair = tuple[list[int], list[int]]  # ids of the text, and of the item with its frame


@dataclass(frozen=True)
class Sample:
    """A held-out pair, and what the model made of its text and of its item; of a codec that only encodes no items."""

    modality: str
    text: str
    item: tuple[str, bytes] | None  # suffix and bytes of a file, after the codec
    drawn: tuple[str, bytes] | None
    written: str


def held_out_pairs(split: Split, modality: int, most: int) -> Iterator[Pair]:
    """Pairs of text and one item of this modality, spread over the split."""
    found = [d for d in np.flatnonzero(split.kinds == KINDS.index("pair")) if split.items_of(int(d))[1].tolist() == [modality]]
    for place in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)):
        d = int(found[place])
        ids = split.tokens[split.offsets[d] : split.offsets[d + 1]].astype(int).tolist()
        ((first, count),) = split.items_of(d)[0].tolist()
        text = ids[1 : first - 1] + ids[first + count + 1 : -1]  # between bos, the item with its frame, and eos
        if text:
            yield text, ids[first - 1 : first + count + 1]


def make_samples(generator: Generator, split: Split) -> list[Sample]:
    """Of every modality but text."""
    found = []
    v = generator.vocabulary
    for number, m in enumerate(v.modalities):
        if not number:
            continue
        pairs = [p for p in held_out_pairs(split, number, PAIRS) if len(p[0]) + len(p[1]) + 1 < generator.length]
        texts = [generator.text.decode([i - v.modality(TEXT).first for i in text]) for text, _ in pairs]
        written = _made(generator, [item for _, item in pairs], texts, TEXT, TEXT_TOKENS)
        codec = generator.codecs[m.name]
        if not decodes(codec):
            found += [Sample(m.name, text, None, None, caption.text) for text, caption in zip(texts, written, strict=True)]
            continue
        drawn = _made(generator, [text for text, _ in pairs], texts, m.name, None)
        for (_, item), text, picture, caption in zip(pairs, texts, drawn, written, strict=True):
            kept = codec.decode(np.array(item[1:-1], np.int64) - m.first)
            of_text = next((part.value for part in picture.parts if part.modality == m.name), None)
            file = None if of_text is None else codec.file(of_text)
            found.append(Sample(m.name, text, codec.file(kept), file, caption.text))
    return found


def _made(generator: Generator, given: list[list[int]], names: list[str], wanted: str, most: int | None) -> list[Made]:
    if not given:
        return []
    bos = generator.vocabulary.specials.bos
    prompts = [(name, [bos, *ids]) for name, ids in zip(names, given, strict=True)]
    return [made for several in generator.make_behind(prompts, wanted, SAMPLING, most=most) for made in several]


def generator_of(config: Config, setup: Setup, vocabulary: Vocabulary) -> Generator | None:
    """Of the model as it stands; None where it cannot make anything: see above."""
    model = setup.model
    if setup.world.mesh is not None or (model.needs_auxiliary and not config.router.auxiliary):
        return None
    text = TextTokenizer.load(config.tokenizer[TEXT])
    return Generator(model, text, load_codecs(config.tokenizer), vocabulary, config.data.sequence_length)
