"""The `tokenizer.json` of the tokenizers library (what released weights come with): text <-> piece numbers.

Piece p is id first + p of the file: of all its ids, or of its text where it names the layout of a run (named_ids.py). Text
never becomes a special token or a code, whatever it spells: what would is cut within that spelling and encoded in parts.
Unlike sentencepiece models here, a file from elsewhere need not give every text back (weights came with it); lone surrogates,
which the library cannot take, come back as U+FFFD always. Its padding and truncation are not used.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from momafuse.errors import UserError
from momafuse.tokens.modality import Modality
from momafuse.tokens.named_ids import named_ids
from momafuse.tokens.names import Spec, added_ids, vocabulary_ids
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import TEXT

_LONE = re.compile("[\ud800-\udfff]")
_MOST_BYTES = 4  # of a character: a piece that ends none of this many is a character of its own, and wrong


class JsonTokenizer(TextTokenizer):
    """A loaded file: `data` is its bytes, `spec` what they hold, which nobody may change."""

    def __init__(self, name: str, data: bytes) -> None:
        """Raises UserError where `data` is no tokenizer.json, and where it names codes in a way that cannot be used."""
        self.name, self.data = name, data
        self.fingerprint = hashlib.sha256(data).hexdigest()
        library = _library(name)
        try:
            self.spec: Spec = json.loads(data)
            ids = vocabulary_ids(self.spec) | added_ids(self.spec)
            size = max(ids.values()) + 1
            self.layout = named_ids(self.spec, name)
            self._tokenizer = library.Tokenizer.from_str(json.dumps(settled(self.spec)))
        except UserError:
            raise
        except Exception as error:  # the library raises nothing more special
            raise UserError(
                f"tokenizer.text={name}: no tokenizer.json of the tokenizers library ({_reason(error)}); name another file"
            ) from error
        if moved := [token for token, i in ids.items() if self._tokenizer.token_to_id(token) != i]:
            raise UserError(
                f"tokenizer.text={name}: the tokenizers library gives {moved[0]} another id than the file does; save it anew"
            )
        self._tokenizer.encode_special_tokens = True
        text = self.layout.text if self.layout else Modality(TEXT, 0, size)
        self.pieces, self._first = text.count, text.first
        self._usable = np.zeros(size, bool)
        self._usable[text.first : text.last + 1] = True
        unknown = _unknown(self.spec, ids)
        special = (ids[token["content"]] for token in self.spec.get("added_tokens") or () if token["special"])
        self._usable[[i for i in special if i != unknown]] = False

    def encode(self, texts: Sequence[str], threads: int = 0) -> list[npt.NDArray[np.int64]]:
        """Piece numbers (n,) int64 of each text; `threads` 1: none but this one, else those that the library chooses.

        Raises UserError for a text with a character that the file has no piece for, not even an unknown one.
        """
        given = [_LONE.sub("\ufffd", text) for text in texts]
        if threads == 1:
            found = [self._tokenizer.encode(text, add_special_tokens=False) for text in given]
        else:
            found = self._tokenizer.encode_batch(given, add_special_tokens=False)
        return [self._row(text, encoding) for text, encoding in zip(given, found, strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._tokenizer.decode([int(i) + self._first for i in ids], skip_special_tokens=True)
        return text

    def spelled(self, ids: Iterable[int]) -> list[str]:
        """By decoding windows: how a piece is spelt hangs on those before it."""
        row, spelt = list(ids), list[str]()
        begin = read = 0  # of the window; where what is not yet spelt begins
        for end in range(1, len(row) + 1):
            before, now = self.decode(row[begin:read]), self.decode(row[begin:end])
            if now.endswith("\ufffd") and end < len(row) and end - read < _MOST_BYTES:
                spelt.append("")
            else:
                spelt.append(now[len(before) :])
                begin, read = (read if spelt[-1] else begin), end  # a window begins with something that is spelt
        return spelt

    def _row(self, text: str, encoding: Any) -> npt.NDArray[np.int64]:
        ids = np.array(encoding.ids, dtype=np.int64)
        wrong = np.flatnonzero(~self._usable[ids])
        if not len(wrong):
            return ids - self._first
        cuts = [0, len(text)]
        for begin, end in (encoding.offsets[place] for place in wrong.tolist()):
            if end - begin < 2:
                raise UserError(
                    f"tokenizer.text={self.name}: has no piece for {text[begin:end]!r}; choose one with byte fallback, or "
                    "leave such texts out"
                )
            cuts.append((begin + end) // 2)
        parts = [text[a:b] for a, b in pairwise(sorted(cuts))]
        return np.concatenate(self.encode(parts, threads=1))


def settled(spec: Spec) -> dict[str, Any]:
    """The same with added tokens in the model's vocabulary, too: the library keeps the ids of those alone. No padding and no
    truncation."""
    model, added = dict(spec["model"]), spec.get("added_tokens") or []
    if isinstance(model["vocab"], dict):
        model["vocab"] = model["vocab"] | {token["content"]: token["id"] for token in added}
    return {**spec, "truncation": None, "padding": None, "added_tokens": added, "model": model}


def _unknown(spec: Spec, ids: dict[str, int]) -> int | None:
    """The id of what has no piece."""
    model = spec["model"]
    return ids.get(model["unk_token"]) if model.get("unk_token") else model.get("unk_id")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return " ".join(str(error).split()) or type(error).__name__


def _library(name: str) -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise UserError(f"tokenizer.text={name}: needs tokenizers; pip install 'momafuse[hf]'") from error
