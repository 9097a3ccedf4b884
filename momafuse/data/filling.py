"""Deals a window's items of fixed length, with what comes with them, to its sequences: exactly so many in each.

Written for pictures and their text; `item` is a picture and `rooms` are the tokens of text, and of any other modality, that a
sequence still has. A sequence first takes items: of the oldest waiting documents, then of new ones, as long as their text fits
while the mean text of the items still missing is kept free (`reserve`); what does not fit waits, in a pool of `POOL` documents.
A pair is taken whole; one too long for any sequence is cut. An interleaved document gives an item with what stands before it,
then goes on as far as the sequence's rooms reach; text too long for any sequence goes ahead of its item in pieces. Where no
waiting document fits (odd texts, the end of a window), the oldest gives its item with as much of its text as fits, and the rest
of that text sits out. So W items always make W / n sequences, whatever comes with them: that is what lets packing.py count
from totals.

A document cut by the budget goes on in the next sequence; sequences linked in that way are marked. Items of other modalities
that a document holds take their own rooms: those of fixed length whole, others cut anywhere. Fills no rest (packing.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from momafuse.data.mixture import Ints, Units
from momafuse.data.pairs import POOL, PairDealer

if TYPE_CHECKING:
    from momafuse.data.corpus import Items, Split

PAIR = 0  # the corpus's number of this kind of document


@dataclass(frozen=True)
class Filled:
    """Pieces in the order they were taken: `start..stop` of the document of `unit`, in `sequence`."""

    sequence: Ints
    unit: Ints
    start: Ints
    stop: Ints
    rooms: Ints  # (sequences, M) tokens of each modality that each leaves
    linked: Ints  # (sequences,) 1 where a document goes on in the next sequence


@dataclass(slots=True)
class _Document:
    """A unit on its way into sequences: tokens `at..stop` are still to be taken."""

    unit: int
    at: int
    stop: int
    items: list[int]  # where the frame of each item begins
    others: list[tuple[int, int, int]]  # begin, end and modality of the codes of other modalities
    pair: bool
    done: int = 0  # items taken
    cut: bool = False  # some of it is taken
    piece: int = -1  # its last piece


def fill_items(split: Split, units: Units, modality: int, rooms: Ints, reserve: Ints) -> Filled:
    """The items of `modality` that `units` hold, in tape order, dealt to sequences with `rooms` (n, M) tokens of each modality:
    every room of `modality` is filled. `reserve` (M,): mean tokens of the other modalities that an item
    brings."""
    items = split.items_in(units.document)
    pairs = np.asarray(split.kinds[units.document] == PAIR)
    if pairs.all() and (np.diff(items.bounds) == 1).all() and (items.modality == modality).all():
        return fill_pairs(split, units, items.rows[:, 0], modality, rooms, int(reserve[0]))
    return fill_any(split, units, items, modality, rooms, reserve)


def fill_any(split: Split, units: Units, items: Items, modality: int, rooms: Ints, reserve: Ints) -> Filled:
    """Whatever documents the units hold."""
    filler = _Filler(_documents(split, units, items, modality), modality, split, reserve)
    for room in rooms.tolist():
        filler.fill(room)
    columns = (filler.sequence, filler.unit, filler.start, filler.stop, filler.rooms, filler.linked)
    sequence, unit, start, stop, left, linked = (np.array(column, dtype=np.int64) for column in columns)
    return Filled(sequence, unit, start, stop, left.reshape(rooms.shape), linked)


def fill_pairs(split: Split, units: Units, item: Ints, modality: int, rooms: Ints, mean: int) -> Filled:
    """Where every unit is a pair, whose item's codes begin at `item`: the same, sooner."""
    block, frames = split.vocabulary.modalities[modality].block, len(split.vocabulary.modalities[modality].frame)
    wanted = rooms[:, modality] // block
    reserve = np.maximum(frames, np.minimum(mean, rooms[:, 0] // np.maximum(1, wanted)))
    unit, brought, count = PairDealer(units.stop - units.start - block).deal(rooms[:, 0], wanted, reserve)
    start, stop, item = units.start[unit], units.stop[unit], item[unit] - frames // 2
    before, after = item - start, stop - item - block - frames
    excess = stop - start - block - brought
    cut = np.where(after > before, np.minimum(after, excess), np.maximum(0, excess - before))  # as in _squeeze
    sequence, left = np.repeat(np.arange(len(rooms)), count), rooms.copy()
    np.subtract.at(left[:, 0], sequence, brought)
    left[:, modality] -= block * count
    return Filled(sequence, unit, start + excess - cut, stop - cut, left, np.zeros(len(rooms), np.int64))


def _documents(split: Split, units: Units, items: Items, modality: int) -> list[_Document]:
    """The units as a list, last first."""
    rows, kinds, bounds = items
    unit = np.repeat(np.arange(len(units)), np.diff(bounds))
    inside = (rows[:, 0] >= units.start[unit]) & (rows[:, 0] < units.stop[unit])
    mine, other = inside & (kinds == modality), inside & (kinds != modality)
    before = len(split.vocabulary.modalities[modality].frame) // 2
    begins = (rows[mine, 0] - before).tolist()
    ends = np.searchsorted(unit[mine], np.arange(len(units) + 1)).tolist()
    pairs = (split.kinds[units.document] == PAIR).tolist()
    columns = units.start.tolist(), units.stop.tolist(), ends[:-1], ends[1:], pairs
    documents = [
        _Document(i, start, stop, begins[a:b], [], pair)
        for i, (start, stop, a, b, pair) in enumerate(zip(*columns, strict=True))
    ]
    others = np.stack([unit[other], rows[other, 0], rows[other].sum(axis=1), kinds[other]], axis=1)
    for i, begin, end, m in others.tolist():
        documents[i].others.append((begin, end, m))
    return documents[::-1]


class _Filler:
    def __init__(self, queue: list[_Document], modality: int, split: Split, reserve: Ints) -> None:
        self.queue, self.modality, self.mean = queue, modality, reserve.tolist()
        self.blocks = [m.block for m in split.vocabulary.modalities]
        self.frames = [len(m.frame) // 2 for m in split.vocabulary.modalities]
        self.block = self.blocks[modality]
        self.item = self.block + 2 * self.frames[modality]  # with its frame
        self.waiting: list[_Document] = []
        self.sequence: list[int] = []
        self.unit: list[int] = []
        self.start: list[int] = []
        self.stop: list[int] = []
        self.rooms: list[list[int]] = []
        self.linked: list[int] = []
        self.text = self.wanted = 0  # the sequence's whole room and its items
        self.reserve: list[int] = []  # of each modality, kept free for each item that is missing
        self.left = 0  # items that the sequence at hand still needs
        self.room: list[int] = []  # tokens that it still has

    def fill(self, room: list[int]) -> None:
        """Fill the next sequence."""
        self.room, self.text = room, room[0]
        self.left = self.wanted = room[self.modality] // self.block
        frame = 2 * self.frames[self.modality]
        self.reserve = [min(mean, whole // max(1, self.wanted)) for mean, whole in zip(self.mean, room, strict=True)]
        self.reserve[0] = max(frame, self.reserve[0])
        waiting: list[_Document] = []
        for document in sorted(self.waiting, key=lambda d: not d.cut):  # what was cut goes on before anything else
            if not self._take_items(document):
                waiting.append(document)
        while self.left and self.queue and len(waiting) < POOL:
            document = self.queue.pop()
            if not self._take_items(document):
                waiting.append(document)
        for document in waiting:
            while self.left and document.done < len(document.items):
                self._squeeze(document)
        for document in waiting:
            self._go_on(document)
        self.waiting = [d for d in waiting if d.at < d.stop]
        self.rooms.append(self.room)
        self.linked.append(int(any(d.cut for d in self.waiting)))

    def _take_items(self, document: _Document) -> bool:
        """Take what fits of the items and what stands before them; True when nothing of the document is left."""
        while self.left and document.done < len(document.items):
            end = document.stop if document.pair else document.items[document.done] + self.item
            if not self._fits(document, end):
                if not (document.pair and self.left == self.wanted):
                    break
                self._squeeze(document)  # no sequence has more room than this one
            else:
                self._take(document, document.at, end, 1)
        return document.at == document.stop

    def _fits(self, document: _Document, end: int) -> bool:
        """Whether there is room up to `end`, with the next item, and for the text of the items that are still missing."""
        if not document.others:
            return end - document.at - self.block <= self._spare(0)
        held = self._held(document, document.at, end)
        text = end - document.at - self.block - sum(held.values())
        return text <= self._spare(0) and all(n <= self._spare(m) for m, n in held.items())

    def _spare(self, modality: int) -> int:
        """Tokens that may come with the next item."""
        return self.room[modality] - self.reserve[modality] * (self.left - 1)

    def _held(self, document: _Document, start: int, stop: int) -> dict[int, int]:
        """Tokens of other modalities than text and the items' in a stretch."""
        held: dict[int, int] = {}
        for a, b, m in document.others:
            if a < stop and b > start:
                held[m] = held.get(m, 0) + min(b, stop) - max(a, start)
        return held

    def _go_on(self, document: _Document) -> None:
        """Take of a document that is cut, or that no sequence can hold together with its next item, what the rooms allow."""
        if document.pair:
            return
        more = document.done < len(document.items)
        end = document.items[document.done] if more else document.stop
        longest = self.text - self.reserve[0] * (self.wanted - 1) - 2 * self.frames[self.modality]
        held = sum(self._held(document, document.at, end).values()) if document.others else 0
        if document.cut or not more or end - document.at - held > longest:
            end = self._reach(document, end)
            if end > document.at:
                self._take(document, document.at, end, 0)

    def _reach(self, document: _Document, end: int) -> int:
        """How far from `at` the rooms reach, at most to `end`; an item of fixed length is passed whole, with its frame."""
        at, room = document.at, list(self.room)
        for a, b, m in [x for x in document.others if document.at < x[1] and x[0] < end]:
            begin, after = max(at, a - self.frames[m]), min(end, b + self.frames[m])
            if begin - at > room[0]:
                return at + room[0]
            room[0] -= begin - at
            at = begin
            codes = min(b, end) - max(a, at)
            if after - at - codes > room[0] or (codes > room[m] and self.blocks[m]):
                return at
            if codes > room[m]:
                return max(a, at) + room[m] if room[m] else at
            room[0], room[m], at = room[0] - (after - at - codes), room[m] - codes, after
        return min(end, at + room[0])

    def _squeeze(self, document: _Document) -> None:
        """Take the next item with as much of its text as fits; the text that does not is left out."""
        begin = document.items[document.done]
        end = begin + self.item
        start, stop = document.at, document.stop if document.pair else end
        for a, b, m in document.others:  # between the neighbours of other modalities
            start = max(start, min(b + self.frames[m], begin)) if a < begin else start
            stop = min(stop, max(a - self.frames[m], end)) if a >= end else stop
        excess = max(0, stop - start - self.block - self._spare(0))
        before, after = begin - start, stop - end  # the longer side gives first: of a pair, the caption's far end
        cut = min(after, excess) if after > before else max(0, excess - before)
        self._take(document, start + excess - cut, stop - cut, 1)
        if document.pair:
            document.at = document.stop

    def _take(self, document: _Document, start: int, stop: int, items: int) -> None:
        number, held = len(self.rooms), self._held(document, start, stop) if document.others else {}
        self.room[0] -= stop - start - items * self.block - sum(held.values())
        self.room[self.modality] -= items * self.block
        for m, n in held.items():
            self.room[m] -= n
        self.left -= items
        document.done += items
        document.at, document.cut = stop, True
        last = document.piece
        if last >= 0 and self.sequence[last] == number and self.stop[last] == start:
            self.stop[last] = stop
            return
        document.piece = len(self.sequence)
        self.sequence.append(number)
        self.unit.append(document.unit)
        self.start.append(start)
        self.stop.append(stop)
