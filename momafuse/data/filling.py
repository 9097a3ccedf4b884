"""Deals a window's pictures, with the text that comes with them, to its sequences: exactly n pictures in each.

A sequence first takes pictures: of the oldest waiting documents, then of new ones, as long as their text fits while the
mean text of the pictures still missing is kept free (`reserve`); what does not fit waits, in a pool of `POOL` documents.
A caption pair is taken whole; a caption too long for any sequence is cut. An interleaved document gives a picture with the
text before it, then goes on with its text as far as the sequence's text budget reaches; text too long for any sequence
goes ahead of its picture in pieces. Where no waiting document fits (odd texts, the end of a window), the oldest gives its
picture with as much of its text as fits, and the rest of that text sits out. So
W pictures always make W / n sequences, whatever the texts: that is what lets packing.py count from totals.

A text cut by the budget goes on in the next sequence; sequences linked in that way are marked. Fills no rest with
text-only documents (packing.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from momafuse.data.mixture import Ints, Units

if TYPE_CHECKING:
    from momafuse.data.corpus import Split

POOL = 32
PAIR = 0  # the corpus's number of this kind of document


@dataclass(frozen=True)
class Filled:
    """Pieces in the order they were taken: `start..stop` of the document of `unit`, in `sequence`."""

    sequence: Ints
    unit: Ints
    start: Ints
    stop: Ints
    rooms: Ints  # (sequences,) text tokens that each leaves
    linked: Ints  # (sequences,) 1 where a document goes on in the next sequence


@dataclass(slots=True)
class _Document:
    """A unit on its way into sequences: tokens `at..stop` are still to be taken."""

    unit: int
    at: int
    stop: int
    pictures: list[int]  # where each picture's begin_image stands
    pair: bool
    done: int = 0  # pictures taken
    cut: bool = False  # some of it is taken
    piece: int = -1  # its last piece


def fill_pictures(split: Split, units: Units, sequences: int, pictures: int, text: int, block: int, reserve: int) -> Filled:
    """`pictures` of `block` codes and at most `text` text tokens a sequence; `units` hold them all, in tape order."""
    filler = _Filler(_documents(split, units), pictures, text, block, max(2, min(reserve, text // pictures)))
    for _ in range(sequences):
        filler.fill()
    columns = (filler.sequence, filler.unit, filler.start, filler.stop, filler.rooms, filler.linked)
    return Filled(*(np.array(column, dtype=np.int64) for column in columns))


def _documents(split: Split, units: Units) -> list[_Document]:
    """The units as a list, last first."""
    end = np.cumsum(units.size)
    before = end - units.size
    rows = np.repeat(split.image_index[units.document] + units.first - before, units.size) + np.arange(end[-1])
    begin = (split.images[rows, 0] - 1 - np.repeat(units.base, units.size)).tolist()
    whole = (split.kinds[units.document] == PAIR).tolist()
    columns = (units.start.tolist(), units.stop.tolist(), before.tolist(), end.tolist(), whole)
    rows_of = enumerate(zip(*columns, strict=True))
    return [_Document(i, at, stop, begin[a:b], pair) for i, (at, stop, a, b, pair) in rows_of][::-1]


@dataclass
class _Filler:
    queue: list[_Document]
    pictures: int
    text: int
    block: int
    reserve: int
    waiting: list[_Document] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    unit: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)
    rooms: list[int] = field(default_factory=list)
    linked: list[int] = field(default_factory=list)
    left: int = 0  # pictures that the sequence at hand still needs
    room: int = 0  # text tokens that it still has

    def fill(self) -> None:
        """Fill the next sequence."""
        self.left, self.room = self.pictures, self.text
        waiting: list[_Document] = []
        for document in sorted(self.waiting, key=lambda d: not d.cut):  # what was cut goes on before anything else
            if not self._take_pictures(document):
                waiting.append(document)
        while self.left and self.queue and len(waiting) < POOL:
            document = self.queue.pop()
            if not self._take_pictures(document):
                waiting.append(document)
        for document in waiting:
            while self.left and document.done < len(document.pictures):
                self._squeeze(document)
        for document in waiting:
            self._go_on(document)
        self.waiting = [d for d in waiting if d.at < d.stop]
        self.rooms.append(self.room)
        self.linked.append(int(any(d.cut for d in self.waiting)))

    def _take_pictures(self, document: _Document) -> bool:
        """Take what fits of the pictures and their text; True when nothing of the document is left."""
        while self.left and document.done < len(document.pictures):
            end = document.stop if document.pair else document.pictures[document.done] + self.block + 2
            if end - document.at - self.block > self.room - self.reserve * (self.left - 1):
                if not (document.pair and self.left == self.pictures):
                    break
                self._squeeze(document)  # no sequence has more room than this one
            else:
                self._take(document, document.at, end, 1)
        return document.at == document.stop

    def _go_on(self, document: _Document) -> None:
        """Take text of a document that is cut, or that no sequence can hold together with its next picture."""
        if document.pair:
            return
        more = document.done < len(document.pictures)
        end = document.pictures[document.done] if more else document.stop
        longest = self.text - self.reserve * (self.pictures - 1) - 2
        if document.cut or not more or end - document.at > longest:
            end = min(end, document.at + self.room)
            if end > document.at:
                self._take(document, document.at, end, 0)

    def _squeeze(self, document: _Document) -> None:
        """Take the next picture with as much of its text as fits; the text that does not is left out."""
        begin = document.pictures[document.done]
        end = begin + self.block + 2
        start, stop = document.at, document.stop if document.pair else end
        excess = max(0, stop - start - self.block - (self.room - self.reserve * (self.left - 1)))
        before, after = begin - start, stop - end  # the longer side gives first: of a pair, the caption's far end
        cut = min(after, excess) if after > before else max(0, excess - before)
        self._take(document, start + excess - cut, stop - cut, 1)
        if document.pair:
            document.at = document.stop

    def _take(self, document: _Document, start: int, stop: int, pictures: int) -> None:
        number = len(self.rooms)
        self.room -= stop - start - pictures * self.block
        self.left -= pictures
        document.done += pictures
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
