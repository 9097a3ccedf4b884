"""A sentencepiece BPE as the parsed `tokenizer.json` of the tokenizers library, with the same pieces under the same numbers.

sentencepiece merges the two neighbours whose union has the best score; the library, those whose pair comes first in a list. So
every way to part a piece in two pieces becomes a pair, by the score of the whole. Spaces stay spaces in the vocabulary (not
U+2581), and what follows a space is no part of the word before. Both give the same pieces for every text of Unicode
characters, but where a piece can be parted in two ways that overlap in a text ("aba" of "ababa", say): there the first place
wins, here the first pair. Lone surrogates are none.
"""

from __future__ import annotations

import importlib
from typing import Any

from momafuse.errors import UserError
from momafuse.tokens.sentencepieces import SentencePieces

_SPACE = "\u2581"
_BPE = 2  # TrainerSpec.ModelType
_NORMAL, _KNOWN = 1, (1, 2, 3, 6)  # SentencePiece.Type: normal, unknown, control, byte


def spec_of(text: SentencePieces) -> dict[str, Any]:
    """Raises UserError for a model that is no BPE, and for one with pieces of its user's."""
    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")  # it has no types

    model = proto.ModelProto.FromString(text.model)
    if model.trainer_spec.model_type != _BPE or any(piece.type not in _KNOWN for piece in model.pieces):
        raise UserError(
            f"tokenizer.text={text.name}: only a plain BPE can be written as a tokenizer.json, not a model of another type or "
            "with symbols of its own; train one with python -m momafuse.train_tokenizer"
        )
    names = [piece.piece.replace(_SPACE, " ") if piece.type == _NORMAL else piece.piece for piece in model.pieces]
    scores = {name: piece.score for name, piece in zip(names, model.pieces, strict=True) if piece.type == _NORMAL}
    apart = all(" " not in name[1:] for name in scores)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": _SPLIT if apart else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": merges_of(scores),
        },
    }


def merges_of(scores: dict[str, float]) -> list[list[str]]:
    """All pairs of pieces that are a piece together, the best scores of those first."""
    best = sorted(scores, key=lambda name: -scores[name])
    parted = ((name[:k], name[k:]) for name in best for k in range(1, len(name)))
    return [[left, right] for left, right in parted if left in scores and right in scores]


_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False}
