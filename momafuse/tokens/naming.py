"""Gives a `tokenizer.json` of text alone the names that make its ids those of a run (names.py): codes behind what it has.

Existing ids stay. Does not read files (tokenizer_json.py), and does not move ids (writing.py).
"""

from __future__ import annotations

from typing import Any

from momafuse.errors import UserError
from momafuse.tokens.names import IMAGE, PLACEHOLDER, SPECIALS, Spec, added_ids, code_name, codes_of, frame_names, specials_of
from momafuse.tokens.names import vocabulary_ids as model_ids
from momafuse.tokens.tokenizer_json import settled


def with_codes(spec: Spec, codes: int) -> dict[str, Any]:
    """The parsed file of a text model, and behind its last id: image codes 0..codes-1 in the model's vocabulary, then the frame
    of an image, the placeholder, and a pad where it has none, as special tokens.

    Raises UserError where its vocabulary is no mapping (Unigram), and where it has codes already, or no bos or eos.
    """
    spec = settled(spec)
    model = spec["model"]
    if not isinstance(model["vocab"], dict):
        raise UserError(f"tokenizer.json: a {model.get('type')} vocabulary takes no codes; choose a text model with a BPE")
    ids = model_ids(spec) | added_ids(spec)
    if codes_of(ids):
        raise UserError("tokenizer.json: it names codes already; take that of a model of text alone")
    known = specials_of(spec)
    for special in ("bos", "eos"):
        if special not in known:
            raise UserError(f"tokenizer.json: no {special}; add one of {' '.join(SPECIALS[special])}")
    first = max(ids.values()) + 1
    named = [code_name(IMAGE, code) for code in range(codes)]
    special_tokens = [*frame_names(IMAGE), PLACEHOLDER, *(SPECIALS["pad"][:1] if "pad" not in known else ())]
    new = [name for name in special_tokens if name not in ids]
    model["vocab"] = model["vocab"] | {name: i for i, name in enumerate([*named, *new], first)}
    spec["added_tokens"] = spec["added_tokens"] + [special_token(first + codes + n, name) for n, name in enumerate(new)]
    return spec


def special_token(i: int, name: str) -> dict[str, Any]:
    """An entry of `added_tokens`: matched as it is written."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": name, **flags, "special": True}
