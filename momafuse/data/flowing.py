"""Deals a window's documents of an open modality (speech), whose items may be cut, to the rooms that sequences have left.

The line is cut where a sequence's room of the modality is full, and goes on in the next one: W tokens always fill rooms of W
tokens. The text that comes with them (transcripts, frames) is taken where it fits, while the mean text of what is still missing
is kept free (`rate`); what does not fit sits out, the end that is farther from the item. So does what is left of other
modalities' rooms. Items of fixed length are dealt before (filling.py); text alone is cut by packing.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from momafuse.data.mixture import Ints, Units

if TYPE_CHECKING:
    from momafuse.data.corpus import Split


class Run(NamedTuple):
    """Neighbouring tokens `start..stop` of one modality in the document of `unit`."""

    unit: int
    modality: int
    start: int
    stop: int
    before: bool  # text that the next item of its document follows: of it, the end is kept


def flow(split: Split, units: Units, modality: int, rooms: Ints, rate: float) -> tuple[Ints, Ints, Ints, Ints]:
    """-> sequence, unit, start and stop of every piece. `rooms` (n, M) is used up: of `modality` nothing is left, and `units`
    hold as much of it. `rate`: mean tokens of text that come with one of the modality."""
    flow = _Flow(modality, rooms, rate)
    waiting: list[Run] = []
    for run in _runs(split, units, modality):
        if run.modality == modality:
            flow.pour(run, waiting)
            waiting = []
        elif waiting and waiting[-1].unit != run.unit:
            flow.trail(waiting)
            waiting = [run]
        else:
            waiting.append(run)
    flow.trail(waiting)
    columns = (np.array(column, dtype=np.int64) for column in (flow.sequence, flow.unit, flow.start, flow.stop))
    sequence, unit, start, stop = columns
    return sequence, unit, start, stop


def _runs(split: Split, units: Units, modality: int) -> Iterator[Run]:
    rows, kinds, bounds = split.items_in(units.document)
    spans = list(zip(rows[:, 0].tolist(), rows.sum(axis=1).tolist(), kinds.tolist(), strict=True))
    columns = (units.start.tolist(), units.stop.tolist(), pairwise(bounds.tolist()))
    for unit, (first, last, (low, high)) in enumerate(zip(*columns, strict=True)):
        final = max((a for a, _, m in spans[low:high] if m == modality and a < last), default=-1)
        at = first
        for a, b, m in [span for span in spans[low:high] if span[1] > first and span[0] < last]:
            if a > at:
                yield Run(unit, 0, at, a, at <= final)
            at = min(b, last)
            yield Run(unit, m, max(a, first), at, a <= final)
        if at < last:
            yield Run(unit, 0, at, last, False)


@dataclass
class _Flow:
    modality: int
    rooms: Ints
    rate: float
    at: int = 0  # the sequence at hand
    sequence: list[int] = field(default_factory=list)
    unit: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)

    def pour(self, run: Run, before: list[Run]) -> None:
        """Take a run of the modality, in as many sequences as it needs, with what stands before it in its document or is left
        of the document before that one."""
        self.trail([x for x in before if x.unit != run.unit])
        self._open()
        self._accompany([x for x in before if x.unit == run.unit], run.stop - run.start)
        start = run.start
        while start < run.stop:
            self._open()
            taken = min(run.stop - start, int(self.rooms[self.at, self.modality]))
            self._take(run.unit, self.modality, start, start + taken)
            start += taken

    def trail(self, after: list[Run]) -> None:
        """Take what stands behind the last item of a document, as far as it fits where that item ended."""
        self._accompany(after, 0)

    def _open(self) -> None:
        """Go on to a sequence that has room."""
        while not self.rooms[self.at, self.modality]:
            self.at += 1

    def _accompany(self, runs: list[Run], coming: int) -> None:
        """Take what fits of runs of other modalities, if `coming` tokens of the modality follow."""
        for run in runs:
            missing = max(0, int(self.rooms[self.at, self.modality]) - coming)
            room = int(self.rooms[self.at, run.modality])
            if run.modality == 0:
                room -= int(np.ceil(self.rate * missing))
            fits = min(run.stop - run.start, max(0, room))
            start, stop = (run.stop - fits, run.stop) if run.before else (run.start, run.start + fits)
            self._take(run.unit, run.modality, start, stop)

    def _take(self, unit: int, modality: int, start: int, stop: int) -> None:
        if start == stop:
            return
        self.rooms[self.at, modality] -= stop - start
        if self.sequence and (self.sequence[-1], self.unit[-1], self.stop[-1]) == (self.at, unit, start):
            self.stop[-1] = stop
            return
        self.sequence.append(self.at)
        self.unit.append(unit)
        self.start.append(start)
        self.stop.append(stop)
