"""`sample.html`: packed sequences of the training plan as a person reads them, on one page that needs no network.

Every piece of a document stands in its place, with its source and number. Text is decoded, items are decoded from their codes,
so that a picture looks as the model can know it at best; specials have their names, and what is no target is marked: what is
given (objective.answers_only), `pad`, and the first token of a piece, which nothing comes before.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from momafuse.data.codecs import Codec, decodes
from momafuse.data.corpus import Split
from momafuse.data.loader import Loader
from momafuse.data.packing import Piece
from momafuse.data.stages import StagedPlan
from momafuse.reports.pages import embedded, rendered
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT

OF_STAGE = 4  # sequences that are shown, spread over the stage
TURN = 137.5  # degrees between the hues of neighbouring sources: the golden angle keeps any number apart


@dataclass(frozen=True)
class Sampler:
    """What a page is made of; `split` is that of the plan and of the loader."""

    split: Split
    plan: StagedPlan
    loader: Loader
    text: TextTokenizer
    codecs: Mapping[str, Codec]

    def page(self, title: str, facts: Sequence[tuple[str, Sequence[str]]], sequences: int, global_batch: int) -> str:
        """HTML of some of the first `sequences`; `facts`, lines by name, stand above them."""
        shown = [self._sequence(number, global_batch) for number in chosen(self.plan, sequences)]
        sources = [{"name": s.name, "hue": self._hue(n)} for n, s in enumerate(self.split.sources)]
        return rendered("sequences.html", title=title, facts=facts, sources=sources, shown=shown)

    def _sequence(self, number: int, global_batch: int) -> dict[str, Any]:
        batch = self.loader.batch([number])
        ids, targets, kinds = (x[0].tolist() for x in (batch.tokens, batch.targets, batch.modality))
        learnt = [False, *(target >= 0 for target in targets[:-1])]
        pieces = self.plan.pieces(number)
        ends = itertools.accumulate((piece.stop - piece.start for piece in pieces), initial=0)
        places = [slice(begin, end) for begin, end in itertools.pairwise(ends)]
        shown = [self._piece(piece, ids[at], learnt[at]) for piece, at in zip(pieces, places, strict=True)]
        names = self.split.vocabulary.names
        counts, learnt_of = Counter(kinds), Counter(kind for kind, is_target in zip(kinds, learnt, strict=True) if is_target)
        return {
            "number": number,
            "step": number // global_batch + 1,
            "stage": self.plan.stage(number) + 1 if self.plan.begins else None,
            "counts": [(name, counts[m], learnt_of[m]) for m, name in enumerate(names) if counts[m]],
            "pieces": shown,
        }

    def _piece(self, piece: Piece, ids: list[int], learnt: list[bool]) -> dict[str, Any]:
        number = bisect_right([s.first for s in self.split.sources], piece.document) - 1
        source = self.split.sources[number]
        length = int(self.split.offsets[piece.document + 1] - self.split.offsets[piece.document])
        whole = (piece.start, piece.stop) == (0, length)
        return {
            "source": source.name,
            "hue": self._hue(number),
            "document": piece.document - source.first + 1,
            "documents": source.documents,
            "span": f"all {length:,} tokens" if whole else f"tokens {piece.start + 1:,} to {piece.stop:,} of {length:,}",
            "before": piece.start > 0,
            "after": piece.stop < length,
            "parts": list(self._parts(ids, learnt)),
        }

    def _parts(self, ids: list[int], learnt: list[bool]) -> Iterator[dict[str, Any]]:
        """Runs of one modality: words, or an item."""
        table = self.split.vocabulary.modality_of_ids()
        for modality, places in itertools.groupby(range(len(ids)), lambda at: int(table[ids[at]])):
            run = list(places)
            codes, targets = [ids[at] for at in run], [learnt[at] for at in run]
            yield {"words": self._words(codes, targets)} if modality == 0 else self._item(modality, codes, any(targets))

    def _words(self, ids: list[int], learnt: list[bool]) -> list[dict[str, str]]:
        """Stretches of text of one kind: learnt, no target, a special."""
        text = self.split.vocabulary.modality(TEXT)
        names = {i: name for name, i in self.split.vocabulary.named_specials().items()}
        words: list[dict[str, str]] = []
        for plain, places in itertools.groupby(range(len(ids)), lambda at: text.first <= ids[at] <= text.last):
            run = list(places)
            mine = [ids[at] for at in run]
            spelt = self.text.spelled(i - text.first for i in mine) if plain else [names.get(i, f"id {i}") for i in mine]
            for target, several in itertools.groupby(zip(run, spelt, strict=True), lambda one: learnt[one[0]]):
                parts = [word for _, word in several]
                kind = " ".join(name for name, so in (("special", not plain), ("masked", not target)) if so)
                words += [{"text": part, "kind": kind} for part in (["".join(parts)] if plain else parts)]
        return words

    def _item(self, modality: int, codes: list[int], learnt: bool) -> dict[str, Any]:
        m = self.split.vocabulary.modalities[modality]
        codec, caption, kind = self.codecs[m.name], f"{m.name}, {len(codes):,} codes", "" if learnt else "masked"
        if not decodes(codec):
            return {"shown": "", "caption": f"{caption} (its tokenizer has no decoder)", "kind": kind}
        item = codec.file(codec.decode(np.array(codes, np.int64) - m.first))
        return {"shown": embedded(*item, m.name), "caption": caption, "kind": kind}

    def _hue(self, source: int) -> int:
        return round(TURN * source + 210) % 360


def chosen(plan: StagedPlan, sequences: int) -> list[int]:
    """Of every stage that the first `sequences` reach: some, from its first to its last."""
    ends = [*plan.begins[: plan.stage(sequences - 1)], sequences]
    stretches = zip((0, *plan.begins), ends, strict=False)
    return [int(n) for a, b in stretches for n in np.unique(np.linspace(a, b - 1, OF_STAGE).astype(int))]
