"""Documents of a source -> ids: runs the codec of each modality and the text tokenizer over whole chunks.

Training documents come in as many variants as asked, of which codecs make what they can (vision/codec.py); validation
documents have variant 0 only. Reads and writes no files but those that a source gives by path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import torch

from momafuse.data.codecs import Codec, Codes, load_codecs, vocabulary_of
from momafuse.data.sources import Item, Raw
from momafuse.data.writer import Group, Part
from momafuse.tokens.document import EncodedDocument, encode_document
from momafuse.tokens.text import TextTokenizer, read_utf8
from momafuse.tokens.vocabulary import TEXT

BATCH = 64  # items

T = TypeVar("T")
Place = tuple[int, int, int]  # an item's number, its variant, and the place among its segments


@dataclass
class _Encoded:
    """Codes of every segment that is no text; items that cannot be used, with the reason."""

    codes: dict[Place, Codes] = field(default_factory=dict)
    rejects: dict[int, str] = field(default_factory=dict)


class Encoder:
    """The tokenizers of all modalities and the vocabulary that holds their ids."""

    def __init__(self, text: TextTokenizer, codecs: Mapping[str, Codec], device: str = "cpu") -> None:
        self.text = text
        self.codecs = codecs
        self.device = device
        self.vocabulary = vocabulary_of(text, codecs)

    @classmethod
    def load(cls, config: Mapping[str, str]) -> Encoder:
        """On the GPU where there is one. Raises UserError for a tokenizer that is missing or damaged."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(TextTokenizer.load(config[TEXT]), load_codecs(config, device), device)

    @property
    def fingerprints(self) -> dict[str, str]:
        return {TEXT: self.text.fingerprint} | {name: codec.fingerprint for name, codec in self.codecs.items()}

    def encode(self, items: Sequence[Item], variants: int) -> Part:
        """The part of these items: `variants` training groups and the validation group."""
        encoded = _Encoded()
        items = [_with_text(n, item, encoded.rejects) for n, item in enumerate(items)]
        for modality, codec in self.codecs.items():
            self._run(modality, codec, items, variants, encoded)
        texts = iter(self._texts(items))
        groups: list[list[EncodedDocument]] = [[] for _ in range(variants + 1)]
        for n, item in enumerate(items):
            pieces = {place: next(texts) for place, s in enumerate(item.segments) if isinstance(s, str)}
            if n not in encoded.rejects and (reason := self._unknown(item)):
                encoded.rejects[n] = reason
            if n in encoded.rejects:
                continue
            for v in _variants(item, variants):
                segments = [
                    (s.modality, encoded.codes[n, v, place]) if isinstance(s, Raw) else (TEXT, pieces[place])
                    for place, s in enumerate(item.segments)
                ]
                key = f"{item.key}#{v}" if v else item.key
                group = groups[v if item.split == "train" else variants]
                group.append(encode_document(key, segments, self.vocabulary, item.given))
        built = tuple(Group.build(documents, self.vocabulary) for documents in groups)
        return Part(len(items), built, tuple((items[n].key, reason) for n, reason in sorted(encoded.rejects.items())))

    def _unknown(self, item: Item) -> str | None:
        missing = {s.modality for s in item.segments if isinstance(s, Raw)} - self.codecs.keys()
        return f"no tokenizer.{min(missing)} for it" if missing else None

    def _texts(self, items: Sequence[Item]) -> list[Codes]:
        """Ids of all text segments in order."""
        first = self.vocabulary.modality(TEXT).first
        pieces = self.text.encode([s for item in items for s in item.segments if isinstance(s, str)])
        return [p + first for p in pieces]

    def _run(self, modality: str, codec: Codec, items: Sequence[Item], variants: int, encoded: _Encoded) -> None:
        """Encode what a codec is for, of each (item, variant)."""
        running: deque[tuple[list[Place], Future[list[Codes]]]] = deque()
        same: dict[Place, Place] = {}

        def collect(leave: int) -> None:
            while len(running) > leave:
                places, future = running.popleft()
                encoded.codes.update(zip(places, future.result(), strict=True))

        workers = torch.get_num_threads() if self.device == "cpu" else 1
        with _single_threaded(), ThreadPoolExecutor(workers) as pool:
            for batch in _batched(_decoded(modality, codec, items, variants, encoded.rejects, same), BATCH):
                places, decoded = zip(*batch, strict=True)
                running.append((list(places), pool.submit(codec.encode, decoded)))
                collect(leave=2 * workers)
            collect(leave=0)
        encoded.codes.update({place: encoded.codes[first] for place, first in same.items()})


def _with_text(n: int, item: Item, rejects: dict[int, str]) -> Item:
    """The item with the texts that it has in files; one that cannot be read goes to `rejects`."""
    if not any(isinstance(s, Raw) and s.modality == TEXT for s in item.segments):
        return item
    try:
        read = (read_utf8(s.read()) if isinstance(s, Raw) and s.modality == TEXT else s for s in item.segments)
        return replace(item, segments=tuple(read))
    except (OSError, ValueError) as error:
        rejects[n] = " ".join(str(error).split())
        return item


def _decoded(
    modality: str, codec: Codec, items: Sequence[Item], variants: int, rejects: dict[int, str], same: dict[Place, Place]
) -> Iterator[tuple[Place, Any]]:
    """Segments of a modality; undecodable documents go to `rejects`, versions that are no other than the first to `same`."""
    for n, item in enumerate(items):
        texts = [s for s in item.segments if isinstance(s, str)]
        for place, segment in enumerate(item.segments):
            if isinstance(segment, str) or segment.modality != modality or n in rejects:
                continue
            try:
                raw = codec.read(segment.read())
            except (OSError, ValueError) as error:
                rejects[n] = " ".join(str(error).split()) or type(error).__name__
                continue
            for v in _variants(item, variants):
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


def _variants(item: Item, variants: int) -> range:
    """Only training documents that are no text alone have more than one."""
    many = item.split == "train" and any(isinstance(s, Raw) for s in item.segments)
    return range(variants if many else 1)
