"""The pack plan: which pieces of documents make up global sequence i. Every sequence holds the modality budget exactly.

The plan is a pure function of (seed, epoch, corpus fingerprint, budget), in windows of N sequences that are planned
independently. With n pictures and S_text text tokens a sequence, window k of epoch e takes

    pictures  start(e) + k*N*n ... of the line of image-bearing sources (mixture.py), and
    fill      from place  (e*E + k*N) * S_text - (text of all pictures before)  on, of the line of text-only sources,

both known from totals alone: any sequence is found in constant time. Within a window filling.py deals the pictures with
their text to sequences, the sequences are permuted, and what they leave of S_text is filled from the text line in their
final order, so that a text cut by the budget goes on in the next sequence. Last, the pieces of a sequence are permuted.

An epoch is E sequences: one pass over the image-bearing source that ends first at its weight (without one: over the
text-only source that does), less than one sequence of its pictures sitting out. All other sources go on where they were,
at their own pace, so that in time all of their data is seen.

Reads no tokens (loader.py). Does not hold any order: memory does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from momafuse.data.budget import check_text
from momafuse.data.filling import fill_pictures
from momafuse.data.mixture import Ints, Mixture, Tape, Units, key_of, keyed_hash, keyed_order
from momafuse.errors import UserError

if TYPE_CHECKING:
    from momafuse.data.corpus import SourceInfo, Split

CACHED_WINDOWS = 4


class Piece(NamedTuple):
    """Tokens `start..stop` of a document, counted from its first token."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class SourceShare:
    """A source's share of the pictures (image-bearing) or of the fill text (text-only), and its passes in an epoch."""

    source: str
    of: str  # "image" or "text"
    requested: float
    realised: float
    passes: float

    def __str__(self) -> str:
        asked, got = f"{self.requested:.2%}", f"{self.realised:.2%}"
        return f"{self.source}: {got} of the {self.of} budget (asked {asked}), {self.passes:.2f} passes an epoch"


@dataclass(frozen=True)
class WindowPlan:
    """The pieces of a window's sequences: those of sequence j are `first[j]..first[j + 1]-1`."""

    first: Ints
    document: Ints
    base: Ints  # first token of the document in the corpus
    start: Ints
    stop: Ints


class PackPlan:
    """Finds the pieces of any global sequence; fresh objects agree, in whatever order they are asked."""

    sequences_per_epoch: int

    def __init__(
        self,
        split: Split,
        budget: tuple[int, ...],
        weights: dict[str, float],
        seed: int,
        window: int,
        *,
        fill_last: bool = False,
    ) -> None:
        """`budget` in tokens a sequence, text first; `weights` by source; `window` documents of an independent window.

        `fill_last`: text-only sources fill the end of each sequence (padding). UserError where the corpus cannot meet
        the budget.
        """
        self.budget, self._split, self._fill_last = budget, split, fill_last
        self._text, image = budget[0], sum(budget[1:])
        self._key = key_of(seed, split.fingerprint, *budget, window)
        sources = [s for s in split.sources if s.documents and _weight(weights, s) > 0]
        pictured, plain = [s for s in sources if s.pictures], [s for s in sources if not s.pictures]
        self._block = _block(split, image)
        self._pictures = image // self._block if image else 0
        self._image = self._mix(pictured, weights, window) if image and pictured else None
        self._fill = self._mix(plain, weights, window) if plain else None
        self._reserve = self._check(image)
        self.sequences_per_epoch, self._aligned = self._epoch()
        documents = self._text / self._documents_length() if not image else self._pictures
        self._window_length = min(max(1, int(window / documents)), self.sequences_per_epoch)
        self.window = lru_cache(CACHED_WINDOWS)(self._plan)

    def find(self, sequence: int) -> tuple[int, int, int]:
        """Epoch, window in the epoch and place in the window of a global sequence (>= 0)."""
        if sequence < 0:
            raise ValueError(f"sequence {sequence} is negative")
        epoch, rest = divmod(sequence, self.sequences_per_epoch)
        return epoch, *divmod(rest, self._window_length)

    def pieces(self, sequence: int) -> list[Piece]:
        """The pieces of a global sequence, in their order in it."""
        epoch, number, place = self.find(sequence)
        plan = self.window(epoch, number)
        at = slice(int(plan.first[place]), int(plan.first[place + 1]))
        columns = (plan.document[at].tolist(), plan.start[at].tolist(), plan.stop[at].tolist())
        return [Piece(*row) for row in zip(*columns, strict=True)]

    def shares(self) -> list[SourceShare]:
        """Requested and realised share of every source in use, for the start of a run."""
        sequences, result = self.sequences_per_epoch, []
        lines = (("image", self._image, sequences * self._pictures), ("text", self._fill, self._fill_place(1, 0)))
        for of, mixture, places in lines:
            if mixture is None:
                continue
            taken = mixture.shares.split(places)
            for i, tape in enumerate(mixture.tapes):
                realised, passes = float(mixture.shares.realised[i]), int(taken[i]) / tape.length
                result.append(SourceShare(tape.name, of, mixture.requested[i], realised, passes))
        return result

    def _mix(self, sources: Sequence[SourceInfo], weights: dict[str, float], window: int) -> Mixture:
        tapes = [Tape(self._split, s, window, self._block, key_of(self._key, s.name)) for s in sources]
        return Mixture(tapes, [weights[s.name] for s in sources])

    def _check(self, image: int) -> int:
        """Text tokens that a picture brings on average, rounded up; UserError where the budget cannot be met."""
        if image and self._image is None:
            raise UserError(
                f"data.image_share={image / sum(self.budget):g}: no source with a weight above 0 has pictures; "
                "the nearest valid share is 0"
            )
        mean = 0.0
        if self._image is not None:
            rates = [tape.text / tape.length for tape in self._image.tapes]
            mean = float(np.dot(self._image.shares.realised, rates))
        check_text(self._text, image, self._block, mean, self._fill is not None)
        return int(np.ceil(mean))

    def _documents_length(self) -> float:
        """Mean length of a text-only document in tokens."""
        assert self._fill is not None
        names = {tape.name for tape in self._fill.tapes}
        documents = sum(s.documents for s in self._split.sources if s.name in names)
        return sum(tape.length for tape in self._fill.tapes) / documents

    def _epoch(self) -> tuple[int, list[bool]]:
        """Sequences of an epoch, and which image-bearing sources begin every epoch with a fresh pass."""
        mixture, places = (self._image, self._pictures) if self._image else (self._fill, self._text)
        assert mixture is not None
        lengths = np.array([tape.length for tape in mixture.tapes])
        low, high = 1, 2 + int(max(lengths / mixture.shares.realised)) // places
        while high - low > 1:  # low sequences fit into one pass of every source, high do not
            middle = (low + high) // 2
            fits = bool((mixture.shares.split(middle * places) <= lengths).all())
            low, high = (middle, high) if fits else (low, middle)
        rest = lengths - mixture.shares.split(low * places)
        return low, [bool(0 <= r < places) for r in rest.tolist()]

    def _picture_places(self, epoch: int, sequences: int) -> Ints:
        """Place on each image-bearing tape after that many sequences of an epoch."""
        assert self._image is not None
        used = self._image.shares.split(self.sequences_per_epoch * self._pictures)
        step = np.where(self._aligned, [tape.length for tape in self._image.tapes], used)
        return epoch * step + self._image.shares.split(sequences * self._pictures)

    def _fill_place(self, epoch: int, sequences: int) -> int:
        """Place on the line of fill text after that many sequences of an epoch."""
        place = (epoch * self.sequences_per_epoch + sequences) * self._text
        if self._image is not None:
            places = self._picture_places(epoch, sequences).tolist()
            place -= sum(tape.text_before(p) for tape, p in zip(self._image.tapes, places, strict=True))
        return max(0, place)

    def _plan(self, epoch: int, number: int) -> WindowPlan:
        before = number * self._window_length
        count = min(self._window_length, self.sequences_per_epoch - before)
        rooms = np.full(count, self._text)
        parts: list[tuple[Ints, Ints, Ints, Units]] = []  # sequence, unit, range, units
        key = key_of(self._key, "window", epoch, number)
        if self._image is not None:
            begin, end = self._picture_places(epoch, before), self._picture_places(epoch, before + count)
            units = self._image.segment(begin, end)
            filled = fill_pictures(self._split, units, count, self._pictures, self._text, self._block, self._reserve)
            order = _permute_sequences(key, filled.linked, units)
            rooms = filled.rooms[order]
            final = np.empty(count, dtype=np.int64)
            final[order] = np.arange(count)
            parts.append((final[filled.sequence], filled.unit, np.stack([filled.start, filled.stop]), units))
        if rooms.any():
            parts.append(self._fill_rooms(self._fill_place(epoch, before), rooms))
        return _arrange(parts, count, key, self._fill_last)

    def _fill_rooms(self, place: int, rooms: Ints) -> tuple[Ints, Ints, Ints, Units]:
        """Cut the line of fill text, from `place` on, to the rooms that the sequences leave."""
        if self._fill is None:
            raise UserError(
                "data.sources: pictures come with texts of different lengths and there is no text to fill with; "
                "add a text-only source with a weight above 0"
            )
        split = self._fill.shares.split
        units = self._fill.segment(split(place), split(place + int(rooms.sum())))
        rooms_end, units_end = np.cumsum(rooms), np.cumsum(units.size)
        cuts = np.unique(np.concatenate([[0], rooms_end, units_end]))
        begin, length = cuts[:-1], np.diff(cuts)
        unit = np.searchsorted(units_end, begin, side="right")
        sequence = np.searchsorted(rooms_end, begin, side="right")
        start = units.start[unit] + begin - (units_end - units.size)[unit]
        return sequence, unit, np.stack([start, start + length]), units


def _weight(weights: dict[str, float], source: SourceInfo) -> float:
    if source.name not in weights:
        raise UserError(f"data.sources: {source.name} is in the corpus but has no weight; add data.sources.{source.name}")
    return weights[source.name]


def _block(split: Split, image: int) -> int:
    """Tokens of a picture in this corpus; UserError where the image budget is no multiple."""
    pictures = sum(s.pictures for s in split.sources)
    block = sum(s.image_tokens for s in split.sources) // pictures if pictures else max(1, image)
    if image % block:
        raise UserError(f"data.image_share: {image} image tokens in a sequence, but pictures here have {block} tokens")
    return block


def _permute_sequences(key: int, linked: Ints, units: Units) -> Ints:
    """An order of a window's sequences. Those linked by a document that goes on in the next one stay together, and what
    goes on from the last window (into the next) stays first (last)."""
    group = np.append(0, np.cumsum(linked[:-1] == 0))
    place = keyed_hash(key, int(group[-1]) + 1).astype(np.float64)
    if units.head:
        place[0] = -1.0
    if units.tail:
        place[-1] = np.inf
    return np.argsort(place[group], kind="stable")


def _arrange(parts: list[tuple[Ints, Ints, Ints, Units]], count: int, key: int, fill_last: bool) -> WindowPlan:
    """Sort pieces by sequence, those of a sequence in keyed order, those of one stretch of a document by place."""
    sequence, start = np.concatenate([p[0] for p in parts]), np.concatenate([p[2][0] for p in parts])
    shift = np.cumsum([0, *(len(p[3]) for p in parts)])
    unit = np.concatenate([p[1] + s for p, s in zip(parts, shift, strict=False)])
    part = np.repeat(np.arange(len(parts)), [len(p[0]) for p in parts]) if fill_last else np.zeros_like(sequence)
    order = np.lexsort((start, keyed_order(key_of(key, "pieces"), int(shift[-1]))[unit], part, sequence))
    document = np.concatenate([p[3].document for p in parts])
    base = np.concatenate([p[3].base for p in parts])
    stop = np.concatenate([p[2][1] for p in parts])
    first = np.append(0, np.cumsum(np.bincount(sequence, minlength=count)))
    unit = unit[order]
    return WindowPlan(first, document[unit], base[unit], start[order], stop[order])
