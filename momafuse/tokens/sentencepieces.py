"""Byte-fallback BPE (sentencepiece): text <-> piece numbers 0..pieces-1, exactly, for any Python string.

Normalisation is the identity, no space is added or removed, and what has no piece of its own goes as UTF-8 bytes. Two
things sentencepiece cannot carry are spelt as bytes here: "\u2581" (its own sign for a space) and lone surrogates (no
UTF-8 of their own). Files hold no ids but those of their pieces.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import sentencepiece

from momafuse.errors import UserError
from momafuse.tokens.config import BPEConfig
from momafuse.tokens.text import TextTokenizer

_SPACE = "\u2581"
_AS_BYTES = re.compile("([\u2581\ud800-\udfff])")
_PROBE = "  two  spaces,\ttab\r\n\n\0 \u2581 \u00e9e\u0301 \U0001f600 <unk> <0x41> "


class SentencePieces(TextTokenizer):
    """A loaded model; `model` is its file."""

    def __init__(self, name: str, model: bytes) -> None:
        """Raises UserError where `model` is no sentencepiece model or does not give every text back."""
        self.name, self.model = name, model
        self.fingerprint = hashlib.sha256(model).hexdigest()
        try:
            if not model:
                raise RuntimeError("the file is empty")
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"tokenizer.text={name}: not a sentencepiece model; name another file") from error
        self.pieces = int(self._processor.get_piece_size())
        self._byte_ids = [int(self._processor.piece_to_id(f"<0x{b:02X}>")) for b in range(256)]
        self._bytes = self._spell()
        if self.decode(self.encode([_PROBE])[0]) != _PROBE:
            raise UserError(
                f"tokenizer.text={name}: the model does not give every text back; train one with byte fallback, identity "
                "normalisation and no added spaces (python -m momafuse.train_tokenizer tokenizer=starter_bpe does)"
            )

    def encode(self, texts: Sequence[str], threads: int = 0) -> list[npt.NDArray[np.int64]]:
        """Piece numbers (n,) int64 of each text; `threads` 0: as many as there are processors."""
        odd = {n: self._encode_odd(text) for n, text in enumerate(texts) if _AS_BYTES.search(text)}
        plain = [text for n, text in enumerate(texts) if n not in odd]
        encoded = iter(self._processor.encode(plain, num_threads=threads or os.cpu_count() or 1) if plain else [])
        rows = (odd[n] if n in odd else next(encoded) for n in range(len(texts)))
        return [np.array(row, dtype=np.int64) for row in rows]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of piece numbers; bytes that are no UTF-8 (a sampled or a cut row of pieces) become U+FFFD."""
        raw = b"".join(self._bytes[i] for i in ids)
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return raw.decode("utf-8", "replace")

    def spelled(self, ids: Iterable[int]) -> list[str]:
        """What each piece adds to the text; a character of several pieces stands with the last of them."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts = [decoder.decode(self._bytes[i]) for i in ids]
        rest = decoder.decode(b"", final=True)  # of a character that was begun
        return [*texts[:-1], texts[-1] + rest] if texts else []

    def _encode_odd(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in _AS_BYTES.split(text):
            if _AS_BYTES.fullmatch(part):
                ids += [self._byte_ids[b] for b in part.encode("utf-8", "surrogatepass")]
            else:
                ids += self._processor.encode(part)
        return ids

    def _spell(self) -> list[bytes]:
        """The bytes of every piece; none for control and unknown pieces."""
        p = self._processor
        spelt = [
            b"" if p.is_control(i) or p.is_unknown(i) else p.id_to_piece(i).replace(_SPACE, " ").encode("utf-8")
            for i in range(self.pieces)
        ]
        for byte, i in enumerate(self._byte_ids):
            spelt[i] = bytes([byte])
        return spelt


def train_bpe(texts: Iterable[str], config: BPEConfig) -> bytes:
    """The model file of a BPE trained on `texts`: the same bytes for the same texts, config and sentencepiece version.

    Raises UserError where the texts do not hold enough words for `config.pieces`.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(_AS_BYTES.sub(" ", text) for text in texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=config.pieces,
            character_coverage=config.character_coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=1 << 24,
            num_threads=1,  # stands in the model file: a set number keeps its bytes the same everywhere
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0].rpartition("] ")[2]
        raise UserError(
            f"tokenizer.pieces={config.pieces}: cannot train on these texts ({reason}); set fewer pieces, give more text"
        ) from error
    return model.getvalue()
