"""The order of every source, as an endless tape; and how a line is shared out among several tapes.

A tape goes over its source's documents pass after pass. In each pass the source's shards (contiguous documents) are
permuted, then the documents of each shard. A tape is measured in one modality: in its items where they have a fixed length
(pictures: a document is cut after one only), else in its tokens (text, speech: cut after any). Which document lies at which
place follows from the totals of the shards, so no order is ever held: memory is bounded by `MAX_SHARDS`, not by the corpus.

Permutations are sorts of SplitMix64 hashes (Steele, Lea and Flood, OOPSLA 2014), the same with every NumPy.
Does not fill sequences (packing.py), and reads no tokens (loader.py).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from momafuse.data.corpus import Split
    from momafuse.data.layout import SourceInfo

Ints = npt.NDArray[np.int64]

MAX_SHARDS = 4_096  # a source: bounds what is read and held at open
CYCLE = 4_096  # places of a share table: shares are kept to 1 in 4,096


def key_of(*parts: int | str) -> int:
    """A 64-bit key of its parts, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def keyed_hash(key: int, n: int) -> npt.NDArray[np.uint64]:
    """(n,) uint64: SplitMix64 of the counters 1..n, started at `key`."""
    with np.errstate(over="ignore"):
        x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def keyed_order(key: int, n: int) -> Ints:
    """A permutation of 0..n-1 chosen by `key`."""
    return np.argsort(keyed_hash(key, n)).astype(np.int64, copy=False)  # no two hashes are alike: any sort gives this one


def sorted_by(*keys: tuple[Ints, int]) -> Ints:
    """Indices in the order of several keys, the first the highest, each of numbers from 0 to below a bound; those that tie in
    theirs. np.lexsort, ten times as fast where a number of 63 bits holds all keys."""
    count = len(keys[0][0])
    bits = count.bit_length()
    if math.prod(bound for _, bound in keys) << bits > 2**63:
        return np.lexsort([key for key, _ in reversed(keys)])
    joined = np.zeros(count, np.int64)
    for key, bound in keys:
        joined *= bound
        joined += key
    joined <<= bits
    joined |= np.arange(count)
    joined.sort()
    joined &= (1 << bits) - 1
    return joined


class Shares:
    """Shares out an endless line of places among sources by weight, evenly at every scale: each source's places in a
    cycle are spread at equal distances. `split` is monotone and sums to the position: nothing is lost or taken twice."""

    def __init__(self, weights: Sequence[float]) -> None:
        """`weights` > 0, one a source."""
        exact = np.array(weights, dtype=np.float64) / sum(weights) * CYCLE
        counts = np.maximum(np.floor(exact).astype(np.int64), 1)
        while (missing := CYCLE - int(counts.sum())) != 0:
            counts[np.argmax((exact - counts) * np.sign(missing))] += np.sign(missing)
        ideal = np.concatenate([(np.arange(c) + 0.5) / c for c in counts])
        owner = np.repeat(np.arange(len(counts)), counts)[np.argsort(ideal, kind="stable")]
        self.realised = counts / CYCLE
        self._before = np.zeros((CYCLE + 1, len(counts)), dtype=np.int64)
        np.cumsum(owner[:, None] == np.arange(len(counts)), axis=0, out=self._before[1:])

    def split(self, position: int) -> Ints:
        """(sources,) int64: how many of the first `position` places belong to each source."""
        cycles, rest = divmod(position, CYCLE)
        share: Ints = cycles * self._before[-1] + self._before[rest]
        return share


class Units:
    """Consecutive stretches of documents, in order; tokens `start..stop` of `document`, counted from its first token.

    `base` is the document's first token in the corpus, `size` the stretch in the tape's measure (number of items, or of
    tokens); all (n,) int64. `head`, `tail`: how many of the first (last) units belong to documents that began before (go on
    after) this stretch of the line.
    """

    def __init__(self, table: Ints, head: int, tail: int) -> None:
        """`table` (5, n): the columns in the order below."""
        self.table, self.head, self.tail = table, head, tail
        self.document, self.base, self.start, self.stop, self.size = table

    def __len__(self) -> int:
        return len(self.document)


@dataclass(frozen=True)
class _Shard:
    document: Ints
    base: Ints
    length: Ints
    size: Ints  # in the tape's measure
    end: Ints  # in it too, from the shard's beginning


class Tape:
    """One source's documents, pass after pass."""

    def __init__(self, split: Split, source: SourceInfo, window: int, modality: int, key: int) -> None:
        """Measured in `modality`; `window` documents a shard (more in a very large source); `key` picks the order."""
        self.name, self.documents = source.name, source.documents
        self.modality, self.whole = modality, split.vocabulary.modalities[modality].block > 0
        self._split, self._key = split, key
        shard = max(window, -(-source.documents // MAX_SHARDS))
        self._bounds = source.first + np.append(np.arange(0, source.documents, shard), source.documents)
        totals = np.diff(split.totals(self._bounds), axis=0)
        split.release()
        self._size = self._measure(totals)
        self._tokens: Ints = totals[:, 1]
        self.length = int(self._size.sum())
        self.tokens: Ints = self._tokens.sum(axis=0)
        self._pass = lru_cache(2)(self._order_pass)
        self._shard = lru_cache(4)(self._order_shard)
        self._before = lru_cache(4)(self._count_shard)

    def tokens_before(self, place: int) -> Ints:
        """(M,) tokens of each modality in everything before `place`, all passes counted."""
        number, rest = divmod(place, self.length)
        at, document, inside = self._locate(number, rest)
        order, _, tokens = self._pass(number)
        total: Ints = number * self.tokens + tokens[at]
        if document or inside:
            total = total + self._before(number, int(order[at]))[document]
            if inside:
                shard = self._shard(number, int(order[at]))
                total = total + self._split.tokens_within(int(shard.document[document]), self._cut(shard, document, inside))
        return total

    def _measure(self, totals: Ints) -> Ints:
        """(n, 2, M) items and tokens -> (n,) in the tape's measure."""
        return totals[:, 0 if self.whole else 1, self.modality]

    def segment(self, begin: int, end: int) -> Units:
        """What lies on places `begin..end-1`: every document whole, but for the first and the last."""
        parts: list[Ints] = []
        head = tail = 0
        first_pass = begin // self.length
        while begin < end:
            number, rest = divmod(begin, self.length)
            stop = min(self.length, rest + end - begin)
            part, cut_head, cut_tail = self._segment_of_pass(number, rest, stop)
            parts += part
            head, tail = (cut_head if number == first_pass else head), cut_tail
            begin += stop - rest
        return Units(np.concatenate([np.empty((5, 0), np.int64), *parts], axis=1) if len(parts) != 1 else parts[0], head, tail)

    def _segment_of_pass(self, number: int, begin: int, end: int) -> tuple[list[Ints], int, int]:
        order, _, _ = self._pass(number)
        (at, low, skip), (last, high, keep) = self._locate(number, begin), self._locate(number, end)
        parts: list[Ints] = []
        for i in range(at, last + (1 if high or keep else 0)):
            shard = self._shard(number, int(order[i]))
            a, b = (low if i == at else 0), (high + (keep > 0) if i == last else len(shard.document))
            part = np.empty((5, b - a), np.int64)
            for row, column in zip(part, (shard.document, shard.base, None, shard.length, shard.size), strict=True):
                row[:] = 0 if column is None else column[a:b]
            _, _, start, stop, size = part
            if i == last and keep:
                stop[-1], size[-1] = self._cut(shard, b - 1, keep), keep
            if i == at and skip:
                start[0] = self._cut(shard, a, skip)
                size[0] -= skip
            parts.append(part)
        return parts, int(skip > 0), int(keep > 0)

    def _locate(self, number: int, place: int) -> tuple[int, int, int]:
        """Of a place in a pass: the shard's place in the order, the document in it, and how much of that lies before."""
        order, ends, _ = self._pass(number)
        at = int(np.searchsorted(ends, place, side="right")) if place else 0
        rest = place - (int(ends[at - 1]) if at else 0)
        if not rest:
            return at, 0, 0
        end = self._shard(number, int(order[at])).end
        document = int(np.searchsorted(end, rest, side="right"))
        return at, document, rest - (int(end[document - 1]) if document else 0)

    def _cut(self, shard: _Shard, document: int, inside: int) -> int:
        """The first token, counted from the document's, after `inside` items or tokens of it."""
        if self.modality == 0:
            return inside  # it is text alone
        rows, modality = self._split.items_of(int(shard.document[document]))
        rows, frame = rows[modality == self.modality], len(self._split.vocabulary.modalities[self.modality].frame) // 2
        ends = np.cumsum(np.ones(len(rows), np.int64) if self.whole else rows[:, 1])
        at = int(np.searchsorted(ends, inside))
        rest = int(ends[at]) - inside  # of an item that is cut
        return int(rows[at].sum()) - rest + (0 if rest else frame)

    def _order_pass(self, number: int) -> tuple[Ints, Ints, Ints]:
        """The shards' order, where each ends in the tape's measure, and (shards + 1, M) the tokens before each."""
        order = keyed_order(key_of(self._key, "shards", number), len(self._size))
        before = np.zeros((len(order) + 1, len(self.tokens)), np.int64)
        np.cumsum(self._tokens[order], axis=0, out=before[1:])
        return order, np.cumsum(self._size[order]), before

    def _order_shard(self, number: int, shard: int) -> _Shard:
        low, high = int(self._bounds[shard]), int(self._bounds[shard + 1])
        order = keyed_order(key_of(self._key, "documents", number, shard), high - low)
        offsets = np.asarray(self._split.offsets[low : high + 1])
        size = np.diff(self._measure(self._split.totals(slice(low, high + 1))))[order]
        return _Shard(low + order, offsets[order], np.diff(offsets)[order], size, np.cumsum(size))

    def _count_shard(self, number: int, shard: int) -> Ints:
        """(n + 1, M) tokens of each modality before each document of a shard in its order, and in all."""
        low, high = int(self._bounds[shard]), int(self._bounds[shard + 1])
        tokens = np.diff(self._split.totals(slice(low, high + 1))[:, 1], axis=0)
        before = np.zeros((high - low + 1, len(self.tokens)), np.int64)
        np.cumsum(tokens[self._shard(number, shard).document - low], axis=0, out=before[1:])
        return before


class Mixture:
    """Several tapes of one measure on one line, shared out by weight."""

    def __init__(self, tapes: Sequence[Tape], weights: Sequence[float]) -> None:
        self.tapes = tuple(tapes)
        self.shares = Shares(weights)
        self.requested = tuple(w / sum(weights) for w in weights)

    def segment(self, begins: Ints, ends: Ints) -> Units:
        """The tapes' stretches `begins[i]..ends[i]-1`, mixed in proportion: what was cut before comes first, what is
        cut here comes last, so that it goes on where the line goes on."""
        parts = [t.segment(int(a), int(b)) for t, a, b in zip(self.tapes, begins, ends, strict=True)]
        if len(parts) == 1:
            return parts[0]
        place = np.concatenate([_places(part) for part in parts])
        order = np.argsort(place, kind="stable")
        table = np.concatenate([part.table for part in parts], axis=1)[:, order]
        return Units(table, sum(part.head for part in parts), sum(part.tail for part in parts))


def _places(units: Units) -> npt.NDArray[np.float64]:
    """Where each unit begins in its stretch, from 0 to 1."""
    ends = np.cumsum(units.size)
    place: npt.NDArray[np.float64] = (ends - units.size) / max(1, int(ends[-1])) if len(units) else np.empty(0)
    place[len(units) - units.tail :] = 2.0
    place[: units.head] = -1.0
    return place
