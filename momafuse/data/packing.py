"""The pack plan: which pieces of documents make up global sequence i. Every sequence holds the modality budget exactly.

The plan is a pure function of (seed, epoch, corpus fingerprint, budget), in windows of N sequences that are planned
independently. Sources stand on lines (lines.py), one a modality, and lines fill sequences in turn: modalities whose items have
a fixed length first (pictures), then open ones (speech), text last. With n_m items or tokens of modality m a sequence, window k
of epoch e takes of the line of m what lies from place

    (e*E + k*N) * n_m - (what the lines before brought of m by then)

on, known from totals alone: any sequence is found in constant time. Within a window filling.py deals the items of the first
line with all that comes with them to sequences, the sequences are permuted, and every further line fills, in their final
order, what is left of its modality, so that what is cut by the budget goes on in the next sequence. Last, the pieces of a
sequence are permuted.

An epoch is E sequences: one pass over the source of the first line that ends first at its weight, less than one sequence of
its items sitting out. All other sources go on where they were, at their own pace, so that in time all of their data is seen.

Reads no tokens (loader.py). Does not hold any order: memory does not grow with the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from momafuse.data.filling import fill_items
from momafuse.data.flowing import flow
from momafuse.data.lines import Line, Lines, SourceShare, Start
from momafuse.data.mixture import Ints, Units, key_of, keyed_hash, keyed_order, sorted_by
from momafuse.errors import UserError

if TYPE_CHECKING:
    from momafuse.data.corpus import Split

CACHED_WINDOWS = 4
BEGINNING = Start()


class Piece(NamedTuple):
    """Tokens `start..stop` of a document, counted from its first token."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class WindowPlan:
    """The pieces of a window's sequences: those of sequence j are `first[j]..first[j + 1]-1`."""

    first: Ints
    document: Ints
    begin: Ints  # first token of the piece in the corpus
    start: Ints  # and in its document
    stop: Ints
    number: npt.NDArray[np.int32]  # of the piece in its sequence


class Part(NamedTuple):
    """What a line brings to a window: pieces, each a `stretch` (2, n) of a unit's document, in a sequence."""

    sequence: Ints
    unit: Ints
    stretch: Ints
    units: Units


class PackPlan:
    """Finds the pieces of any global sequence; fresh objects agree, in whatever order they are asked."""

    def __init__(
        self,
        split: Split,
        budget: tuple[int, ...],
        weights: dict[str, float],
        seed: int,
        window: int,
        *,
        fill_last: bool = False,
        start: Start = BEGINNING,
        length: int | None = None,
    ) -> None:
        """`budget` in tokens a sequence, text first; `weights` by source; `window` documents of an independent window.

        `fill_last`: text-only sources fill the end of each sequence (padding). `start`, `length`: a stage of several
        (stages.py), which ends after so many sequences. UserError where the corpus cannot meet the budget.
        """
        self.budget, self._split, self._fill_last = budget, split, fill_last
        self._key = key_of(seed, split.fingerprint, *budget, window)
        self.start, self._length = start, length
        self.lines = Lines(split, budget, weights, window, self._key, start)
        self.sequences_per_epoch = self.lines.sequences_per_epoch
        self._window_length = min(max(1, int(window / self.lines.documents)), self.sequences_per_epoch)
        self.window = lru_cache(CACHED_WINDOWS)(self._plan)

    def find(self, sequence: int) -> tuple[int, int, int]:
        """Epoch, window in the epoch and place in the window of a global sequence (>= 0)."""
        if sequence < 0:
            raise ValueError(f"sequence {sequence} is negative")
        epoch, rest = divmod(sequence - self.start.sequence, self.sequences_per_epoch)
        return self.start.epoch + epoch, *divmod(rest, self._window_length)

    def pieces(self, sequence: int) -> list[Piece]:
        """The pieces of a global sequence, in their order in it."""
        epoch, number, place = self.find(sequence)
        plan = self.window(epoch, number)
        at = slice(int(plan.first[place]), int(plan.first[place + 1]))
        columns = (plan.document[at].tolist(), plan.start[at].tolist(), plan.stop[at].tolist())
        return [Piece(*row) for row in zip(*columns, strict=True)]

    def shares(self) -> list[SourceShare]:
        """Requested and realised share of every source in use, for the start of a run."""
        return self.lines.shares()

    def _plan(self, epoch: int, number: int) -> WindowPlan:
        before = number * self._window_length
        key = key_of(self._key, "window", epoch, number)
        epoch -= self.start.epoch  # as lines count
        count = min(self._window_length, self.sequences_per_epoch - before)
        if self._length is not None:
            count = min(count, self._length - epoch * self.sequences_per_epoch - before)
        rooms = np.tile(np.array(self.budget, np.int64), (count, 1))
        parts: list[Part] = []
        for line in self.lines:
            if line.modality == 0:
                continue
            kept = rooms[:, 0] - np.maximum(rooms[:, 0] - line.later_text, 0)  # for the lines behind it
            rooms[:, 0] -= kept
            if not line.whole:
                parts.append(self._flow(line, epoch, before, rooms))
            else:
                part, rooms = self._deal(line, epoch, before, rooms, key)
                parts.append(part)
            rooms[:, 0] += kept
        if rooms[:, 0].any():
            parts.append(self._fill(epoch, before, rooms[:, 0]))
        return _arrange(parts, count, key, self._fill_last)

    def _units(self, line: Line, epoch: int, before: int, rooms: Ints) -> Units:
        """What the line brings to a window: the first line its own stretch, others as much as the rooms hold."""
        if line.first:
            begin, end = (self.lines.places(line, epoch, before + n) for n in (0, len(rooms)))
        else:
            begin = self.lines.places(line, epoch, before)
            places = int(rooms[:, line.modality].sum()) // line.unit
            end = line.on_tapes(self.lines.place(line, epoch, before) + places)
        return line.mixture.segment(begin, end)

    def _deal(self, line: Line, epoch: int, before: int, rooms: Ints, key: int) -> tuple[Part, Ints]:
        """Items of a fixed length; the first line's sequences are permuted. -> the pieces, and rooms in the final order."""
        units = self._units(line, epoch, before, rooms)
        filled = fill_items(self._split, units, line.modality, rooms, line.reserve)
        stretch = np.stack([filled.start, filled.stop])
        if not line.first:
            return Part(filled.sequence, filled.unit, stretch, units), filled.rooms
        order = _permute_sequences(key, filled.linked, units)
        final = np.empty(len(rooms), dtype=np.int64)
        final[order] = np.arange(len(rooms))
        return Part(final[filled.sequence], filled.unit, stretch, units), filled.rooms[order]

    def _flow(self, line: Line, epoch: int, before: int, rooms: Ints) -> Part:
        units = self._units(line, epoch, before, rooms)
        sequence, unit, start, stop = flow(self._split, units, line.modality, rooms, float(line.rates[0]))
        return Part(sequence, unit, np.stack([start, stop]), units)

    def _fill(self, epoch: int, before: int, rooms: Ints) -> Part:
        """Cut the line of text alone to the rooms that the sequences leave."""
        line = self.lines.text
        if line is None:
            raise UserError(
                "data.sources: texts that come with items have different lengths and there is no text to fill with; "
                "add a text-only source with a weight above 0"
            )
        place = self.lines.place(line, epoch, before)
        units = line.mixture.segment(*(line.on_tapes(p) for p in (place, place + int(rooms.sum()))))
        ends_before = np.cumsum(units.size) - units.size
        sequence, unit, begin, length = _cut(rooms, units.size)
        start = units.start[unit] + begin - ends_before[unit]
        return Part(sequence, unit, np.stack([start, start + length]), units)


def _cut(rooms: Ints, sizes: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Lay stretches of those sizes end to end into rooms end to end: of each piece its room, its stretch, where it begins on
    the line and its length."""
    ends = np.concatenate([[1], 2 * np.cumsum(rooms), 2 * np.cumsum(sizes) + 1])
    ends.sort()  # of rooms even, of stretches odd, and 1 so that the line begins with an end
    length = np.diff(ends >> 1)
    at = np.flatnonzero(length)
    stretches = np.cumsum(ends & 1)[at]  # that have ended, the beginning among them
    return at + 1 - stretches, stretches - 1, ends[at] >> 1, length[at]


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


def _arrange(parts: list[Part], count: int, key: int, fill_last: bool) -> WindowPlan:
    """Sort pieces by sequence, those of a sequence in keyed order, those of one stretch of a document by place."""
    sequence, start = np.concatenate([p.sequence for p in parts]), np.concatenate([p.stretch[0] for p in parts])
    shift = np.cumsum([0, *(len(p.units) for p in parts)])
    unit = np.concatenate([p.unit + s for p, s in zip(parts, shift, strict=False)])
    part = [(np.repeat(np.arange(len(parts)), [len(p.sequence) for p in parts]), len(parts))] if fill_last else []
    place = keyed_order(key_of(key, "pieces"), int(shift[-1]))[unit]
    order = sorted_by((sequence, count), *part, (place, int(shift[-1])))  # a unit's pieces come by place
    document = np.concatenate([p.units.document for p in parts])
    base = np.concatenate([p.units.base for p in parts])
    stop = np.concatenate([p.stretch[1] for p in parts])
    held = np.bincount(sequence, minlength=count)
    first = np.append(0, np.cumsum(held))
    number = (np.arange(len(order)) - np.repeat(first[:-1], held)).astype(np.int32)
    unit, start = unit[order], start[order]
    return WindowPlan(first, document[unit], base[unit] + start, start, stop[order], number)
