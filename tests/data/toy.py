"""Small corpora in memory, for the tests of the pack plan and the loader, and a hypothesis strategy for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from momafuse.data.corpus import Split
from momafuse.data.layout import SourceInfo
from momafuse.tokens.vocabulary import Vocabulary

PAIR, INTERLEAVED, TEXT = 0, 1, 2
Segments = list[int | str | tuple[str, int]]  # a number of text tokens, an item of fixed length, or an open one and its length


def named(segments: Segments) -> list[tuple[str, int | None]]:
    """Modality and length of every segment; None for items of fixed length."""
    return [("text", s) if isinstance(s, int) else (s, None) if isinstance(s, str) else s for s in segments]


def kind_of(segments: Segments) -> int:
    names = [name for name, _ in named(segments)]
    pair = len(names) == len(set(names)) == 2
    return PAIR if pair else INTERLEAVED if set(names) - {"text"} else TEXT


def make_split(sources: dict[str, list[Segments]], vocabulary: Vocabulary, seed: int = 0) -> Split:
    """Documents as `encode_document` lays them out, with random ids; written as a plain loop."""
    rng = np.random.default_rng(seed)
    special, number = vocabulary.specials, vocabulary.names.index
    tokens: list[int] = []
    offsets, items, item_index, kinds, infos = [0], list[tuple[int, int, int]](), [0], [], []
    totals = np.zeros((2, len(vocabulary.names)), np.int64)
    before = [totals.copy()]
    for source, documents in sources.items():
        first, start = len(kinds), totals.copy()
        for segments in documents:
            tokens.append(special.bos)
            for name, length in named(segments):
                m = vocabulary.modality(name)
                tokens += m.frame[:1]
                n = m.block if length is None else length
                if name != "text":
                    items.append((len(tokens), n, number(name)))
                    totals[:, number(name)] += (1, n)
                tokens += rng.integers(m.first, m.first + m.count, n).tolist()
                tokens += m.frame[1:]
            tokens.append(special.eos)
            totals[1, 0] = len(tokens) - totals[1, 1:].sum()
            offsets.append(len(tokens))
            item_index.append(len(items))
            kinds.append(kind_of(segments))
            before.append(totals.copy())
        held, counts = (totals - start).tolist()
        infos.append(SourceInfo(source, first, len(kinds) - first, tuple(counts), tuple(held)))
    table = np.array(items, dtype=np.int64).reshape(-1, 3)
    plain = vocabulary.names == ("text", "image")
    return Split(
        tokens=np.array(tokens, dtype=np.uint16),
        offsets=np.array(offsets),
        items=table[:, :2],
        item_index=np.array(item_index),
        kinds=np.array(kinds, dtype=np.uint8),
        counts=np.bincount(tokens, minlength=vocabulary.size),
        sources=tuple(infos),
        fingerprint=f"toy-{seed}",
        vocabulary=vocabulary,
        path=Path("toy/train"),
        item_modality=None if plain else table[:, 2].astype(np.uint8),
        before=None if plain else np.stack(before),
    )


def starter_like(pairs: int, glosses: int, seed: int = 0) -> tuple[Split, Vocabulary]:
    """The shape of the starter corpus: captions of 4 to 100 tokens (mean 16), glosses of 22 on average."""
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary.build(4088, image=(8192, 64))
    captions = np.minimum(rng.geometric(1 / 12, pairs) + 3, 100).tolist()
    documents: list[Segments] = [["image", c] if rng.random() < 0.5 else [c, "image"] for c in captions]
    lengths = np.minimum(rng.geometric(1 / 19, glosses) + 2, 200).tolist()
    return make_split({"pictures": documents, "glosses": [[n] for n in lengths]}, vocabulary, seed), vocabulary


def large(pairs: int, texts: int, block: int = 4) -> tuple[Split, Vocabulary]:
    """As many documents as a real corpus has, made without a loop: pictures first, then captions of 1 to 60 tokens (mean 10);
    texts of 8 on average."""
    rng, vocabulary = np.random.default_rng(0), Vocabulary.build(4088, image=(8192, block))
    text, image, special = vocabulary.modality("text"), vocabulary.modality("image"), vocabulary.specials
    captions, words = np.minimum(rng.geometric(1 / 10, pairs), 60), 1 + rng.geometric(1 / 7, texts)
    offsets = np.append(0, np.cumsum(np.concatenate([captions + block + 4, words + 2])))
    tokens = rng.integers(text.first, text.first + text.count, offsets[-1], dtype=np.uint16)
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = special.bos, special.eos
    first = offsets[:pairs] + 2
    tokens[first[:, None] + np.arange(block)] = rng.integers(image.first, image.first + image.count, (pairs, block))
    tokens[first - 1], tokens[first + block] = image.frame
    border, codes = int(offsets[pairs]), pairs * block
    split = Split(
        tokens=tokens,
        offsets=offsets,
        items=np.stack([first, np.full(pairs, block)], axis=1),
        item_index=np.minimum(np.arange(pairs + texts + 1), pairs),
        kinds=np.repeat(np.array([PAIR, TEXT], np.uint8), [pairs, texts]),
        counts=np.bincount(tokens, minlength=vocabulary.size),
        sources=(
            SourceInfo("pictures", 0, pairs, (border - codes, codes), (0, pairs)),
            SourceInfo("texts", pairs, texts, (len(tokens) - border, 0), (0, 0)),
        ),
        fingerprint="large",
        vocabulary=vocabulary,
        path=Path("toy/train"),
    )
    return split, vocabulary


@dataclass(frozen=True)
class Case:
    """A corpus and the arguments of a plan for it."""

    split: Split
    vocabulary: Vocabulary
    budget: tuple[int, int]
    weights: dict[str, float]
    window: int
    seed: int

    @property
    def plan_arguments(self) -> tuple[Any, ...]:
        return self.split, self.budget, self.weights, self.seed, self.window


@st.composite
def cases(draw: st.DrawFn, interleaved: bool = True, sources: int = 2) -> Case:
    """Random corpora: pairs and interleaved documents (with text-only ones among them) in up to `sources` image-bearing
    sources, and up to `sources` text-only ones; budgets from tight to loose."""
    block, pictures = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 3))
    caption = st.integers(1, draw(st.sampled_from([2, 6, 20])))
    pair = caption.flatmap(lambda n: st.sampled_from([["image", n], [n, "image"]]))
    mixed = st.lists(st.one_of(st.just("image"), st.integers(1, 12)), min_size=1, max_size=6)
    documents = st.lists(st.one_of(pair, mixed) if interleaved else pair, min_size=1, max_size=30)
    texts = st.lists(st.lists(st.integers(1, draw(st.sampled_from([3, 40]))), min_size=1, max_size=1), min_size=1, max_size=20)
    groups: dict[str, list[Segments]] = {}
    for i in range(draw(st.integers(1, sources))):
        groups[f"pictures{i}"] = [["image", 1], *draw(documents)]
    for i in range(draw(st.integers(1, sources))):
        groups[f"text{i}"] = draw(texts)
    vocabulary = Vocabulary.build(20, image=(9, block))
    split = make_split(groups, vocabulary, draw(st.integers(0, 3)))
    rate = max(s.tokens[0] / s.items[1] for s in split.sources if s.items[1])
    room = int(np.ceil(rate * pictures)) + draw(st.sampled_from([0, 1, 5, 30]))
    weights = {name: draw(st.sampled_from([1.0, 1.0, 0.3, 2.5])) for name in groups}
    return Case(
        split, vocabulary, (room, pictures * block), weights, draw(st.sampled_from([1, 4, 16, 64])), draw(st.integers(0, 5))
    )


NAMES = ("a", "b", "c", "d")


@st.composite
def many(draw: st.DrawFn) -> Case:
    """Text and up to four other modalities, of items of fixed or of any length: for each, sources of its own (with text or
    alone) and mixed ones; budgets that hold what the mixed ones bring."""
    blocks = draw(st.lists(st.sampled_from([0, 0, 1, 2, 4]), min_size=0, max_size=4))
    names = NAMES[: len(blocks)]
    vocabulary = Vocabulary.build(
        20, **{name: (5 + i, block) for i, (name, block) in enumerate(zip(names, blocks, strict=True))}
    )
    lengths = st.integers(1, draw(st.sampled_from([2, 9])))

    def item(name: str) -> st.SearchStrategy[str | tuple[str, int]]:
        return st.just(name) if vocabulary.modality(name).block else lengths.map(lambda n: (name, n))

    groups: dict[str, list[Segments]] = {}
    for name in names:
        segment = st.one_of(item(name), lengths)
        groups[f"own {name}"] = [[draw(item(name)), 1], *draw(st.lists(st.lists(segment, min_size=1, max_size=5), max_size=12))]
    if names and draw(st.booleans()):
        segment = st.one_of(lengths, *map(item, names))
        documents = draw(st.lists(st.lists(segment, min_size=1, max_size=5), max_size=12))
        groups["mixed"] = [[draw(item(names[0])), *map(draw, map(item, names[1:]))], *documents]
    groups["text"] = draw(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=1), min_size=1, max_size=12))
    split = make_split(groups, vocabulary, draw(st.integers(0, 3)))
    weights = {name: draw(st.sampled_from([1.0, 1.0, 0.3])) for name in groups}
    items = [draw(st.integers(1, 3)) for _ in names]
    window, seed = draw(st.sampled_from([1, 4, 16])), draw(st.integers(0, 5))
    return Case(split, vocabulary, _budget(split, items, draw(st.integers(0, 9))), weights, window, seed)


def _budget(split: Split, items: list[int], spare: int) -> tuple[int, ...]:
    """So many items (or tokens) of each modality more than what the richest source of those filled before it can bring."""
    modalities = split.vocabulary.modalities
    brought = np.zeros(len(modalities))
    budget = [0] * len(modalities)
    left = list(split.sources)
    for m in sorted(range(1, len(modalities)), key=lambda m: modalities[m].block == 0):
        unit = modalities[m].block or 1
        budget[m] = unit * (items[m - 1] + int(np.ceil(brought[m] / unit)))
        own = [s for s in left if s.items[m]]
        left = [s for s in left if s not in own]
        rates = [np.array(s.tokens) / (s.items[m] if modalities[m].block else s.tokens[m]) for s in own]
        brought += budget[m] / unit * np.max(rates, axis=0)
        brought[0] += len(modalities[m].frame) * budget[m] / unit
    budget[0] = int(np.ceil(brought[0])) + 1 + spare + len(modalities)
    return tuple(budget)
