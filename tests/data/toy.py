"""Small corpora in memory, for the tests of the pack plan and the loader, and a hypothesis strategy for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from momafuse.data.corpus import SourceInfo, Split
from momafuse.tokens.vocabulary import Vocabulary

PAIR, INTERLEAVED, TEXT = 0, 1, 2
Segments = list[int | str]  # a number of text tokens, or "image"


def kind_of(segments: Segments) -> int:
    images = segments.count("image")
    return PAIR if images == 1 and len(segments) == 2 else INTERLEAVED if images else TEXT


def make_split(sources: dict[str, list[Segments]], vocabulary: Vocabulary, seed: int = 0) -> Split:
    """Documents as `encode_document` lays them out, with random ids; written as a plain loop."""
    rng = np.random.default_rng(seed)
    image, text, special = vocabulary.modality("image"), vocabulary.modality("text"), vocabulary.specials
    tokens: list[int] = []
    offsets, images, image_index, kinds, infos = [0], [], [0], [], []
    for name, documents in sources.items():
        first, counts = len(kinds), {"text": 0, "image": 0, "pictures": 0}
        for segments in documents:
            tokens.append(special.bos)
            for segment in segments:
                if segment == "image":
                    tokens.append(special.begin_image)
                    images.append((len(tokens), image.block))
                    tokens += rng.integers(image.first, image.first + image.count, image.block).tolist()
                    tokens.append(special.end_image)
                    counts["image"] += image.block
                    counts["pictures"] += 1
                else:
                    tokens += rng.integers(text.first, text.first + text.count, int(segment)).tolist()
            tokens.append(special.eos)
            counts["text"] += len(tokens) - offsets[-1]
            offsets.append(len(tokens))
            image_index.append(len(images))
            kinds.append(kind_of(segments))
        infos.append(
            SourceInfo(name, first, len(kinds) - first, counts["text"] - counts["image"], counts["image"], counts["pictures"])
        )
    return Split(
        tokens=np.array(tokens, dtype=np.uint16),
        offsets=np.array(offsets),
        images=np.array(images, dtype=np.int64).reshape(-1, 2),
        image_index=np.array(image_index),
        kinds=np.array(kinds, dtype=np.uint8),
        counts=np.bincount(tokens, minlength=vocabulary.size),
        sources=tuple(infos),
        fingerprint=f"toy-{seed}",
    )


def starter_like(pairs: int, glosses: int, seed: int = 0) -> tuple[Split, Vocabulary]:
    """The shape of the starter corpus: captions of 4 to 100 tokens (mean 16), glosses of 22 on average."""
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary.build(8192, 64, 4088)
    captions = np.minimum(rng.geometric(1 / 12, pairs) + 3, 100).tolist()
    documents: list[Segments] = [["image", c] if rng.random() < 0.5 else [c, "image"] for c in captions]
    lengths = np.minimum(rng.geometric(1 / 19, glosses) + 2, 200).tolist()
    return make_split({"pictures": documents, "glosses": [[n] for n in lengths]}, vocabulary, seed), vocabulary


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
    vocabulary = Vocabulary.build(9, block, 20)
    split = make_split(groups, vocabulary, draw(st.integers(0, 3)))
    rate = max(s.text_tokens / s.pictures for s in split.sources if s.pictures)
    room = int(np.ceil(rate * pictures)) + draw(st.sampled_from([0, 1, 5, 30]))
    weights = {name: draw(st.sampled_from([1.0, 1.0, 0.3, 2.5])) for name in groups}
    return Case(
        split, vocabulary, (room, pictures * block), weights, draw(st.sampled_from([1, 4, 16, 64])), draw(st.integers(0, 5))
    )
