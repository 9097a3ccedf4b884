"""Documents of a source -> ids: decodes pictures, makes their training variants, runs both tokenizers over whole
chunks.

Variant 0 is the picture as it is; odd variants are mirrored (not where the text says left or right), and all but the
first are shifted by up to 3 pixels each way, on white, by a hash of key and variant: the same whatever else is in the
corpus. Validation documents have variant 0 only. Reads and writes no files but the pictures that a source gives by
path.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from momafuse.config.schema import TokenizerConfig
from momafuse.data.sources import Item, Picture
from momafuse.data.writer import Group, Part
from momafuse.tokens.document import EncodedDocument, encode_document
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.vision.preprocess import preprocess
from momafuse.vision.tokenizer import ImageTokenizer

MAX_SHIFT = 3  # pixels
BATCH = 64  # pictures
_SIDES = re.compile(r"\b(left|right|\w*clockwise)\b", re.IGNORECASE)

T = TypeVar("T")
Codes = npt.NDArray[np.int64]
Segment = tuple[Literal["text", "image"], Codes]


class PictureTokenizer(Protocol):
    """What is needed of vision.tokenizer.ImageTokenizer."""

    fingerprint: str
    codes: int
    block: int
    image_size: int

    def encode(self, pictures: Tensor) -> Tensor: ...


class Encoder:
    """Both tokenizers and the vocabulary that holds their ids."""

    def __init__(self, text: TextTokenizer, image: PictureTokenizer, device: str = "cpu") -> None:
        self.text = text
        self.image = image
        self.device = device
        self.vocabulary = Vocabulary.build(image.codes, image.block, text.pieces)

    @classmethod
    def load(cls, config: TokenizerConfig) -> Encoder:
        """On the GPU where there is one. Raises UserError for a tokenizer that is missing or damaged."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(TextTokenizer.load(config.text), ImageTokenizer.load(config.image, device), device)

    def encode(self, items: Sequence[Item], variants: int) -> Part:
        """The part of these items: `variants` training groups and the validation group."""
        rejects: dict[int, str] = {}
        codes = self._pictures(items, variants, rejects)
        texts = iter(self._texts(items))
        groups: list[list[EncodedDocument]] = [[] for _ in range(variants + 1)]
        for n, item in enumerate(items):
            pieces = [next(texts) if isinstance(s, str) else None for s in item.segments]
            if n in rejects:
                continue
            for v in _variants(item, variants):
                pictures = iter(codes[n, v])
                segments: list[Segment] = [("image", next(pictures)) if p is None else ("text", p) for p in pieces]
                key = f"{item.key}#{v}" if v else item.key
                group = groups[v if item.split == "train" else variants]
                group.append(encode_document(key, segments, self.vocabulary, item.given))
        built = tuple(Group.build(documents, self.vocabulary) for documents in groups)
        return Part(len(items), built, tuple((items[n].key, reason) for n, reason in sorted(rejects.items())))

    def _texts(self, items: Sequence[Item]) -> list[Codes]:
        """Ids of all text segments in order."""
        first = self.vocabulary.modality("text").first
        pieces = self.text.encode([s for item in items for s in item.segments if isinstance(s, str)])
        return [p + first for p in pieces]

    def _pictures(self, items: Sequence[Item], variants: int, rejects: dict[int, str]) -> dict[tuple[int, int], list[Codes]]:
        """Codes of the pictures of each (item, variant); undecodable items go to `rejects`."""
        codes: dict[tuple[int, int], list[Codes]] = {(n, v): [] for n, i in enumerate(items) for v in _variants(i, variants)}
        running: deque[tuple[list[tuple[int, int]], Future[Tensor]]] = deque()

        def collect(leave: int) -> None:
            while len(running) > leave:
                places, future = running.popleft()
                for place, row in zip(places, future.result().numpy(), strict=True):
                    codes[place].append(row)

        workers = torch.get_num_threads() if self.device == "cpu" else 1
        with _single_threaded(), ThreadPoolExecutor(workers) as pool:
            for batch in _batched(self._decoded(items, variants, rejects), BATCH):
                places, pictures = zip(*batch, strict=True)
                running.append((list(places), pool.submit(self.image.encode, torch.stack(pictures))))
                collect(leave=2 * workers)
            collect(leave=0)
        return codes

    def _decoded(
        self, items: Sequence[Item], variants: int, rejects: dict[int, str]
    ) -> Iterator[tuple[tuple[int, int], Tensor]]:
        for n, item in enumerate(items):
            mirrorable = not any(_SIDES.search(s) for s in item.segments if isinstance(s, str))
            for place, segment in enumerate(item.segments):
                if isinstance(segment, str) or n in rejects:
                    continue
                try:
                    picture = decode_picture(segment, self.image.image_size)
                except ValueError as error:
                    rejects[n] = str(error)
                    continue
                for v in _variants(item, variants):
                    yield (n, v), vary(picture, f"{item.key}:{place}", v, mirrorable)


def decode_picture(picture: Picture, size: int) -> Tensor:
    """-> uint8 (3, size, size). Raises ValueError with the reason where it cannot be read or decoded.

    What is over Pillow's limit of pixels is refused before it is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(picture.read())) as image:
                return preprocess(image, size)
    except UnidentifiedImageError as error:
        raise ValueError("no picture format") from error
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def vary(picture: Tensor, key: str, variant: int, mirrorable: bool = True) -> Tensor:
    """Variant 0 is the picture itself; what a shift uncovers is white. uint8 (3, S, S) both."""
    if variant == 0:
        return picture
    if variant % 2 and mirrorable:
        picture = picture.flip(2)
    span = 2 * MAX_SHIFT + 1
    draw = int.from_bytes(hashlib.sha256(f"variant:{key}:{variant}".encode()).digest()[:8]) % (span * span - 1)
    draw += draw >= span * span // 2  # leaves out the shift by (0, 0)
    dy, dx = draw // span - MAX_SHIFT, draw % span - MAX_SHIFT
    size = picture.shape[-1]
    padded = torch.nn.functional.pad(picture, (MAX_SHIFT,) * 4, value=255)
    return padded[:, MAX_SHIFT - dy : MAX_SHIFT - dy + size, MAX_SHIFT - dx : MAX_SHIFT - dx + size]


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
    """Only training documents with pictures have more than one."""
    many = item.split == "train" and any(isinstance(s, Picture) for s in item.segments)
    return range(variants if many else 1)
