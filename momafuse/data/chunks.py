"""The documents of a source in chunks, read on where they were left; what cannot be read for a while is tried again.

Where chunks end follows from the documents alone, so that a run that goes on makes the same ones. Encodes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from momafuse.data.sources import Item, Raw, Source
from momafuse.errors import UserError

DOCUMENTS = 4096
ITEMS = 1024  # variants counted; a chunk ends earlier where it has many pictures or the like
CHARACTERS = 2**25  # or long texts
BYTES = 2**27  # or large files that the source hands over whole
STEP = 0.2  # seconds of a pause between looks at whether to leave
PAUSES = (1.0, 4.0, 15.0, 60.0)  # seconds before a source that fails is tried again
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def chunks(items: Iterable[Item], variants: int) -> Iterator[list[Item]]:
    """The items in order; a chunk holds one at least."""
    chunk: list[Item] = []
    codings = characters = size = 0
    for item in items:
        chunk.append(item)
        size += sum(len(s.data) for s in item.segments if isinstance(s, Raw) and s.data is not None)
        texts = [segment for segment in item.segments if isinstance(segment, str)]
        characters += sum(map(len, texts))
        codings += variants * (len(item.segments) - len(texts))
        if len(chunk) == DOCUMENTS or codings >= ITEMS or characters >= CHARACTERS or size >= BYTES:
            yield chunk
            chunk = []
            codings = characters = size = 0
    if chunk:
        yield chunk


def read(
    name: str,
    source: Source,
    skip: int,
    limit: int | None,
    say: Callable[[str], None],
    look: Callable[[], None] = lambda: None,
) -> Iterator[Item]:
    """The source's items but the first `skip`, up to `limit` in all. One that fails is tried again after pauses, which are
    said and in which `look` may end it; after the last, and for what is wrong with the data itself, a UserError."""
    at, failed = skip, 0
    while True:
        try:
            for item in islice(source.items(at), None if limit is None else max(0, limit - at)):
                yield item
                at, failed = at + 1, 0
            return
        except Exception as error:
            of_datasets = type(error).__module__.startswith("datasets.")  # told by its name: importing it takes half a second
            if not isinstance(error, OSError | ValueError) and not of_datasets:
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            final = isinstance(error, _FINAL) or not isinstance(error, OSError)
            if final or failed == len(PAUSES):
                tried = "" if final else f" (tried {failed + 1} times, at document {at + 1})"
                raise UserError(f"data.sources.{name}: cannot be read further: {reason}{tried}") from error
            say(f"data.sources.{name}: {reason}; again in {PAUSES[failed]:g} s, from document {at + 1} on")
            until = time.monotonic() + PAUSES[failed]
            while (left := until - time.monotonic()) > 0:
                look()
                time.sleep(min(STEP, left))
            failed += 1
