"""Items of a modality -> codes: reads, varies and encodes what the documents of a chunk hold of it, several at a time.

A document with an item that cannot be used is rejected with the reason. Results do not depend on the number of threads.
"""

from __future__ import annotations

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
    looks: dict[int, bytes] = field(default_factory=dict)  # of documents that have one item, where they were asked for


def encode_items(
    modality: str,
    codec: Codec,
    items: Sequence[Item],
    variants: int,
    encoded: Encoded,
    threads: int,
    device: str,
    *,
    looks: bool = False,
) -> None:
    """Adds to `encoded` what a codec is for, of each (item, variant)."""
    running: deque[tuple[list[Place], Future[list[Codes]]]] = deque()
    same: dict[Place, Place] = {}

    def collect(leave: int) -> None:
        while len(running) > leave:
            places, future = running.popleft()
            encoded.codes.update(zip(places, future.result(), strict=True))

    workers = threads if device == "cpu" else 1
    with _single_threaded(), ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(threads) as readers:
        jobs = _jobs(modality, items)
        read = _read_ahead(readers, codec, jobs, AHEAD * threads) if threads > 1 else _read(codec, jobs)
        if looks:
            read = _looked(read, codec, items, encoded)
        for batch in _batched(_varied(read, codec, items, variants, encoded.rejects, same), BATCH):
            places, decoded = zip(*batch, strict=True)
            running.append((list(places), pool.submit(codec.encode, decoded)))
            collect(leave=2 * workers)
        collect(leave=0)
    encoded.codes.update({place: encoded.codes[first] for place, first in same.items()})


def versions(item: Item, variants: int) -> range:
    """Only training documents that are no text alone have more than one."""
    many = item.split == "train" and any(isinstance(s, Raw) for s in item.segments)
    return range(variants if many else 1)


def _jobs(modality: str, items: Sequence[Item]) -> Iterator[Job]:
    for n, item in enumerate(items):
        for place, segment in enumerate(item.segments):
            if isinstance(segment, Raw) and segment.modality == modality:
                yield n, place, segment


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


def _looked(
    read: Iterator[tuple[Job, Any]], codec: Codec, items: Sequence[Item], encoded: Encoded
) -> Iterator[tuple[Job, Any]]:
    """The same; notes how the only item of a document looks."""
    for job, raw in read:
        alone = sum(isinstance(s, Raw) for s in items[job[0]].segments) == 1
        if alone and isinstance(codec, Looks) and not isinstance(raw, Exception):
            encoded.looks[job[0]] = codec.look(raw)
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
