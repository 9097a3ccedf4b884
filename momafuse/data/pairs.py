"""Deals a window's pairs, documents of one item with its text and nothing else, to sequences: what filling.py does, faster.

The same choices as filling.py's (tests compare the two), from numbers alone: of a pair only its length of text counts, and
it is taken whole or, squeezed, in one piece. While nobody waits, sequences take their items straight from the queue. Where
all have the same rooms it is therefore known at once, for every place of the queue, whether a sequence that begins there
takes the next ones whole: all up to the first that does not are dealt as a block, and only that one, and those after it until
nobody waits any more, are dealt one by one.

Does not know documents of several items or of other modalities (filling.py).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from momafuse.data.mixture import Ints

POOL = 32  # documents that may wait


class PairDealer:
    """Deals pairs of these lengths of text (frames included), in their order."""

    def __init__(self, text: Ints) -> None:
        self._text = text
        self._lengths: list[int] = text.tolist()
        self._next = 0  # the first that no sequence has looked at
        self._waiting: list[int] = []
        self._blocks: list[Ints] = []  # what is dealt, in order; last what is dealt one by one since the last block
        self._single: list[int] = []
        self._cut: dict[int, int] = {}  # pairs of which less is taken: how much

    def deal(self, rooms: Ints, wanted: Ints, reserve: Ints) -> tuple[Ints, Ints, Ints]:
        """To sequences with `rooms` (n,) tokens of text for `wanted` pairs, `reserve` kept free for each that is missing:
        the pairs in the order they are taken, how much of its text each brings, and how many each sequence takes."""
        alike = len(rooms) > 0 and bool(wanted[0]) and all((x == x[0]).all() for x in (rooms, wanted, reserve))
        each = int(wanted[0]) if alike else 0
        stops = self._stops(int(rooms[0]), each, int(reserve[0])) if alike else wanted[:0]
        columns, count = (rooms.tolist(), wanted.tolist(), reserve.tolist()), list[int]()
        while len(count) < len(rooms):
            number = 0
            if self._next < len(stops) and not self._waiting:
                number = min((int(stops[self._next]) - self._next) // each, len(rooms) - len(count))
            if number:
                self._take_next(number * each)
                count += [each] * number
            else:
                before = len(self._single)
                self._deal_one(*(column[len(count)] for column in columns))
                count.append(len(self._single) - before)
        self._take_next(0)
        order, brought = np.concatenate(self._blocks), self._text.copy()
        brought[list(self._cut)] = list(self._cut.values())
        return order, brought[order], np.array(count, np.int64)

    def _stops(self, room: int, wanted: int, reserve: int) -> Ints:
        """For each place of the queue: the next, whole sequences on, from which a sequence does not take its pairs whole."""
        text, places = self._text, len(self._text) - wanted + 1
        if places <= 0:
            return text[:0]
        fits, taken = np.ones(places, bool), np.zeros(places, np.int64)
        for i in range(wanted):
            taken += text[i : places + i]
            fits &= taken <= room - reserve * (wanted - i - 1)
        rows = len(text) // wanted + 1  # from the last `wanted` places on, and beyond, too few are left for a sequence
        stops = np.arange(rows * wanted)
        stops[:places][fits] = rows * wanted
        for column in stops.reshape(rows, wanted).T:
            column[:] = np.minimum.accumulate(column[::-1])[::-1]
        return stops[:places]

    def _take_next(self, number: int) -> None:
        self._blocks += [np.array(self._single, np.int64), np.arange(self._next, self._next + number)]
        self._single = []
        self._next += number

    def _deal_one(self, room: int, wanted: int, reserve: int) -> None:
        """Those that wait, then new ones, each if it fits beside `reserve` for every other that is missing; the first is cut
        if it must, for no sequence has more room. Last, where none fits, those that wait are cut."""
        left, lengths, waiting = wanted, self._lengths, list[int]()
        if not left:
            return
        for pair in chain(self._waiting, range(self._next, len(lengths))):
            if pair >= self._next:
                if not left or len(waiting) >= POOL:
                    break
                self._next = pair + 1
            spare = room - reserve * (left - 1)
            if not left or (lengths[pair] > spare and left < wanted):
                waiting.append(pair)
                continue
            room -= self._take(pair, spare)
            left -= 1
        self._waiting = waiting[left:]
        for pair in waiting[:left]:
            room -= self._take(pair, room - reserve * (left - 1))
            left -= 1

    def _take(self, pair: int, room: int) -> int:
        """-> the text that it brings."""
        self._single.append(pair)
        if self._lengths[pair] > room:
            self._cut[pair] = room
            return room
        return self._lengths[pair]
