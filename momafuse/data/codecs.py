"""The codecs of modalities: raw items (pictures, sounds) to codes and back, by the modality's name.

A codec is what `@register_codec("NAME")` returns for a name or path: `tokenizer.NAME=...` chooses it. Shipped are those of
pictures and of speech; a user's module named in `plugins` adds others. Text has a tokenizer of its own (tokens/text.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from momafuse.errors import UserError
from momafuse.speech.codec2 import NAME as CODEC2
from momafuse.speech.codec2 import Codec2
from momafuse.speech.tokenizer import SpeechTokenizer
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT, Vocabulary
from momafuse.vision.codec import ImageCodec

Codes = npt.NDArray[np.int64]


class Codec(Protocol):
    """`codes` is how many there are, `block` the codes of one item (0: any number), `fingerprint` changes with any code. One
    that only encodes says so by `decodes = False`."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def codes(self) -> int: ...
    @property
    def block(self) -> int: ...

    def read(self, data: bytes) -> Any:
        """An item from the bytes of its file. Raises ValueError with the reason where it cannot be used."""

    def vary(self, item: Any, key: str, variant: int, texts: Sequence[str]) -> Any:
        """Version `variant` of a training item whose document holds `texts`; the item itself where it has no versions."""

    def encode(self, items: Sequence[Any]) -> list[Codes]:
        """Codes 0..codes-1 of each item; the same whatever batch an item comes in."""

    def decode(self, codes: Codes) -> Any:
        """What one item's codes stand for, as `read` would give it. Raises UserError where the codec only encodes."""

    def file(self, item: Any) -> tuple[str, bytes]:
        """The suffix (`png`) and the bytes of a file of one item."""

    def drawn(self, items: Sequence[Any]) -> list[npt.NDArray[Any]]:
        """Items as reports.plots.plot_reconstructions draws them."""


def decodes(codec: Codec) -> bool:
    """Whether codes can be made items again."""
    return bool(getattr(codec, "decodes", True))


Loader = Callable[[str, str], Codec]
_CODECS: dict[str, Loader] = {}


def register_codec(modality: str) -> Callable[[Loader], Loader]:
    """Adds the codec of a modality: a function of a name or path (tokenizer.MODALITY) and a device. A modality has one."""

    def add(loader: Loader) -> Loader:
        if modality == TEXT or _CODECS.setdefault(modality, loader) is not loader:
            raise UserError(f"codec {modality} is registered twice; give the second one another name")
        return loader

    return add


register_codec("image")(ImageCodec.load)
register_codec("speech")(lambda name, device: Codec2.load(name) if name == CODEC2 else SpeechTokenizer.load(name, device))


def modalities_with_codec() -> tuple[str, ...]:
    """Those that a run may have beside text."""
    return tuple(_CODECS)


def load_codecs(config: Mapping[str, str], device: str = "cpu") -> dict[str, Codec]:
    """Of every modality but text, in the config's order. Raises UserError for one that is missing or damaged."""
    for modality in config:
        if modality != TEXT and modality not in _CODECS:
            known = ", ".join([TEXT, *_CODECS])
            raise UserError(f"tokenizer.{modality}={config[modality]}: no such modality; there are {known} (plugins add more)")
    return {modality: _CODECS[modality](name, device) for modality, name in config.items() if modality != TEXT}


def vocabulary_of(text: TextTokenizer, codecs: Mapping[str, Codec]) -> Vocabulary:
    """That which the text tokenizer's file names, or else one of ours. Raises UserError where the file names no such modality,
    or another number of codes."""
    asked = {name: (codec.codes, codec.block) for name, codec in codecs.items()}
    return Vocabulary.build(text.pieces, **asked) if text.layout is None else text.layout.vocabulary(asked)


def tokenizer_fingerprints(config: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Name and fingerprint of the tokenizers that a config chooses, by modality."""
    found = {TEXT: TextTokenizer.load(config[TEXT]).fingerprint}
    found |= {modality: codec.fingerprint for modality, codec in load_codecs(config).items()}
    return {modality: (config[modality], found[modality]) for modality in config}
