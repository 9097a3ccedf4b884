"""Items of a modality -> codes: reads, varies and encodes what the documents of a chunk hold of it, several at a time.

A document with an item that cannot be used is rejected with the reason. Results do not depend on the number of threads.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from momafuse.data.codecs import Codec, Codes
from momafuse.data.sources import Item, Raw

BATCH = 64  # items that are encoded at once
AHEAD = 16  # items that each thread may have read before they are encoded

T = TypeVar("T")
Place = tuple[int, int, int]  # an item's number, its variant, and the place among its segments
Spot = tuple[int, int]  # a document's number, and the place among its segments
Job = tuple[int, int, Raw]  # a document's number, the place among its segments, and the item


@runtime_checkable
class Looks(Protocol):
    """A codec that can say how an item looks, so that those that look alike differ in few of 256 bits."""

    def look(self, item: Any) -> bytes: ...


@dataclass
class Encoded:
    """Codes of every segment that is no text; documents that cannot be used, with the reason."""

    codes: dict[Place, Codes] = field(default_factory=dict)
    rejects: dict[int, str] = field(default_factory=dict)
    looks: dict[Spot, bytes] = field(default_factory=dict)  # where they were asked for

    def look(self, n: int, item: Item) -> bytes | None:
        """Of document n, how its item looks if it has but one."""
        spots = [(n, place) for place, segment in enumerate(item.segments) if isinstance(segment, Raw)]
        return self.looks.get(spots[0]) if len(spots) == 1 else None


@dataclass(frozen=True)
class ItemEncoder:
    """What the items of one modality in a chunk are encoded by; results go to `encoded`. `looks`: also how each looks."""

    codec: Codec
    items: Sequence[Item]
    variants: int
    encoded: Encoded
    threads: int
    device: str
    looks: bool = False

    def run(self, modality: str) -> None:
        """Of each (item, variant). An item that occurs in several documents, and as it is, is encoded once."""
        encoded = self.encoded
        jobs, again = _jobs(modality, self.items, self.variants)
        self._encode(jobs)
        for (n, place), (first, there) in again.items():
            if (first, 0, there) in encoded.codes:
                encoded.codes[n, 0, place] = encoded.codes[first, 0, there]
                encoded.looks |= {(n, place): encoded.looks[first, there]} if (first, there) in encoded.looks else {}
        left = [spot for spot in again if (spot[0], 0, spot[1]) not in encoded.codes]  # the first one's document was rejected
        self._encode([(n, place, _raw(self.items[n], place)) for n, place in left])

    def _encode(self, jobs: Sequence[Job]) -> None:
        codec, encoded, threads = self.codec, self.encoded, self.threads
        running: deque[tuple[list[Place], Future[list[Codes]]]] = deque()
        same: dict[Place, Place] = {}

        def collect(leave: int) -> None:
            while len(running) > leave:
                places, future = running.popleft()
                encoded.codes.update(zip(places, future.result(), strict=True))

        workers = threads if self.device == "cpu" else 1
        with _single_threaded(), ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(threads) as readers:
            read = _read_ahead(readers, codec, jobs, AHEAD * threads) if threads > 1 else _read(codec, jobs)
            if self.looks:
                read = _looked(read, codec, encoded)
            for batch in _batched(_varied(read, codec, self.items, self.variants, encoded.rejects, same), BATCH):
                places, decoded = zip(*batch, strict=True)
                running.append((list(places), pool.submit(codec.encode, decoded)))
                collect(leave=2 * workers)
            collect(leave=0)
        encoded.codes.update({place: encoded.codes[first] for place, first in same.items()})


def versions(item: Item, variants: int) -> range:
    """Only training documents that are no text alone have more than one."""
    many = item.split == "train" and any(isinstance(s, Raw) for s in item.segments)
    return range(variants if many else 1)


def _jobs(modality: str, items: Sequence[Item], variants: int) -> tuple[list[Job], dict[Spot, Spot]]:
    """What is to be encoded; and of items that were there before, in documents that take them as they are, where."""
    jobs: list[Job] = []
    seen: dict[str | bytes, Spot] = {}
    again: dict[Spot, Spot] = {}
    for n, item in enumerate(items):
        for place, segment in enumerate(item.segments):
            if isinstance(segment, Raw) and segment.modality == modality:
                content = segment.path or "" if segment.data is None else hashlib.blake2b(segment.data).digest()
                if content in seen and len(versions(item, variants)) == 1:
                    again[n, place] = seen[content]
                else:
                    seen.setdefault(content, (n, place))
                    jobs.append((n, place, segment))
    return jobs, again


def _raw(item: Item, place: int) -> Raw:
    segment = item.segments[place]
    assert isinstance(segment, Raw)
    return segment


def _read(codec: Codec, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
    """Each item, or the exception that says why it cannot be used."""
    for job in jobs:
        yield job, _read_one(codec, job[2])


def _read_ahead(pool: ThreadPoolExecutor, codec: Codec, jobs: Iterable[Job], depth: int) -> Iterator[tuple[Job, Any]]:
    """The same, several at a time."""
    ahead: deque[tuple[Job, Future[Any]]] = deque()
    for job in jobs:
        ahead.append((job, pool.submit(_read_one, codec, job[2])))
        if len(ahead) == depth:
            first, future = ahead.popleft()
            yield first, future.result()
    for job, future in ahead:
        yield job, future.result()


def _read_one(codec: Codec, segment: Raw) -> Any:
    try:
        return codec.read(segment.read())
    except (OSError, ValueError) as error:
        return error


def _looked(read: Iterator[tuple[Job, Any]], codec: Codec, encoded: Encoded) -> Iterator[tuple[Job, Any]]:
    """The same; notes how each item looks."""
    for job, raw in read:
        if isinstance(codec, Looks) and not isinstance(raw, Exception):
            encoded.looks[job[:2]] = codec.look(raw)
        yield job, raw


def _varied(
    read: Iterator[tuple[Job, Any]],
    codec: Codec,
    items: Sequence[Item],
    variants: int,
    rejects: dict[int, str],
    same: dict[Place, Place],
) -> Iterator[tuple[Place, Any]]:
    """The versions of each item; unusable documents go to `rejects`, versions that are no other than the first to `same`."""
    for (n, place, _), raw in read:
        if n in rejects:
            continue
        if isinstance(raw, Exception):
            rejects[n] = " ".join(str(raw).split()) or type(raw).__name__
            continue
        item = items[n]
        texts = [s for s in item.segments if isinstance(s, str)]
        for v in versions(item, variants):
            varied = codec.vary(raw, f"{item.key}:{place}", v, texts)
            if v and varied is raw:
                same[n, v, place] = (n, 0, place)
            else:
                yield (n, v, place), varied


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Products take one thread each: batches side by side are faster than threads within one, by far where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
