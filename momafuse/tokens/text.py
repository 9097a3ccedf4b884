"""Text <-> piece numbers 0..pieces-1: what every text tokenizer promises, and which kind a file is.

There are sentencepiece models (sentencepieces.py) and the `tokenizer.json` of the tokenizers library (tokenizer_json.py). Where
pieces lie in the one id space is the vocabulary's business: it adds the first text id.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from momafuse.errors import UserError
from momafuse.tokens.named_ids import NamedIds


class TextTokenizer(ABC):
    """`fingerprint` is the SHA-256 of its file, `pieces` the number of its ids, `layout` where they lie if the file says so."""

    name: str
    fingerprint: str
    pieces: int
    layout: NamedIds | None = None

    @staticmethod
    def load(name_or_path: str) -> TextTokenizer:
        """A shipped name ("starter_bpe_v1") or the path of a file: `.json` is a tokenizer.json, all else sentencepiece.

        Raises UserError where there is neither, and for a file that cannot be used.
        """
        from momafuse.tokens.sentencepieces import SentencePieces  # both are kinds of this class
        from momafuse.tokens.tokenizer_json import JsonTokenizer

        assets = files("momafuse") / "assets"
        for candidate in (assets / f"{name_or_path}.model", Path(name_or_path)):
            if candidate.is_file():
                kind = JsonTokenizer if candidate.name.endswith(".json") else SentencePieces
                return kind(name_or_path, candidate.read_bytes())
        names = sorted(entry.name.removesuffix(".model") for entry in assets.iterdir() if entry.name.endswith(".model"))
        raise UserError(f"tokenizer.text={name_or_path}: no such file, and the shipped tokenizers are {', '.join(names)}")

    @abstractmethod
    def encode(self, texts: Sequence[str], threads: int = 0) -> list[npt.NDArray[np.int64]]:
        """Piece numbers (n,) int64 of each text; `threads` 0: as many as there are processors."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of piece numbers; bytes that are no UTF-8 (a sampled or a cut row of pieces) become U+FFFD."""

    @abstractmethod
    def spelled(self, ids: Iterable[int]) -> list[str]:
        """What each piece adds to the text; a character of several pieces stands with the last of them."""

    @property
    def image_codes(self) -> npt.NDArray[np.int64] | None:
        """(C,) the code of the image tokenizer that each image id stands for, in order of ids; None where none is named."""
        return None if self.layout is None else self.layout.image_codes


def read_utf8(data: bytes) -> str:
    """The text of a file. Raises ValueError with the remedy where it is no UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(error)) from error


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong, and the remedy."""
    byte = error.object[error.start]
    return f"no UTF-8 (byte 0x{byte:02x} at {error.start}); convert it, e.g. iconv -f latin1 -t utf-8"
