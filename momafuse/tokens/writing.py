"""The text tokenizer of a run as files that transformers reads: `tokenizer.json` in the ids of the run, and its config.

    id of piece p = first text id + p;   specials, frames, codes and spare ids go by the names in names.py

What transformers makes of a text is then what the run makes of it, `bos` first, unless the text spells a special token,
which transformers takes for the token; a run never does. Writes no files.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from momafuse.errors import UserError
from momafuse.tokens import names
from momafuse.tokens.merges import spec_of
from momafuse.tokens.named_ids import named_ids
from momafuse.tokens.naming import special_token
from momafuse.tokens.sentencepieces import SentencePieces
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.tokenizer_json import JsonTokenizer, settled
from momafuse.tokens.vocabulary import TEXT, Vocabulary

_RESERVED = re.compile(r"<reserved\d{5}>")


def to_tokenizer_json(text: TextTokenizer, vocabulary: Vocabulary) -> bytes:
    """The file; that of a tokenizer which names its layout is as it was, and puts `bos` first.

    Raises UserError for a tokenizer that cannot be written (merges.py; a tokenizer.json whose vocabulary is no mapping), and
    ValueError for a vocabulary that is not its own or whose ids names cannot tell.
    """
    asked = {m.name: (m.count, m.block) for m in vocabulary.modalities[1:]}
    if text.layout is not None:
        if not isinstance(text, JsonTokenizer) or text.layout.vocabulary(asked) != vocabulary:
            raise ValueError(f"{text.name} names another vocabulary than the one to write")
        return text.data if _bos_first(text.spec) else _with_bos(text.spec, vocabulary)
    if text.pieces != vocabulary.modality(TEXT).count:
        raise ValueError(f"{text.name} has {text.pieces} pieces, the vocabulary {vocabulary.modality(TEXT).count}")
    spec = _placed(_spec(text), vocabulary)
    layout = named_ids(spec, text.name)
    if layout is None or layout.vocabulary(asked) != vocabulary:
        raise ValueError(f"names do not tell the ids of this vocabulary: {vocabulary}")
    return json.dumps(spec, ensure_ascii=False, indent=1).encode()


def tokenizer_config(tokenizer_json: bytes, length: int) -> dict[str, Any]:
    """`tokenizer_config.json` beside a file with names; `length`: tokens of a sequence. ChameleonProcessor reads the tokens of
    images and `sep_token`, which it puts behind a prompt unless told that the text is to be completed."""
    spec = json.loads(tokenizer_json)
    ids = names.vocabulary_ids(spec) | names.added_ids(spec)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length}
    config |= {f"{special}_token": name for special, name in names.special_names(spec).items()}
    spare = [name for name in names.added_ids(spec) if _RESERVED.fullmatch(name)]
    if spare:
        config["sep_token"] = names.SEPARATOR if names.SEPARATOR in spare else spare[0]
    begin, end = names.frame_names(names.IMAGE)
    if begin in ids:
        config.setdefault("sep_token", config["eos_token"])  # without any, the processor writes "None"
        config["extra_special_tokens"] = {"image_token": names.PLACEHOLDER, "boi_token": begin, "eoi_token": end}
    return config | {"clean_up_tokenization_spaces": False}


def _bos_first(spec: names.Spec) -> bool:
    """Whether its post-processor begins every text with bos."""
    post = spec.get("post_processor") or {}
    first = [part["single"][0] for part in post.get("processors", [post]) if part.get("type") == "TemplateProcessing"]
    return {"SpecialToken": {"id": names.special_names(spec)["bos"], "type_id": 0}} in first


def _with_bos(spec: names.Spec, vocabulary: Vocabulary) -> bytes:
    """Released files leave bos to whoever reads them, and transformers takes their word alone."""
    begun = {**spec, "post_processor": _behind(names.special_names(spec)["bos"], vocabulary.specials.bos)}
    return json.dumps(begun, ensure_ascii=False, indent=1).encode()


def _spec(text: TextTokenizer) -> dict[str, Any]:
    if isinstance(text, SentencePieces):
        return spec_of(text)
    if not isinstance(text, JsonTokenizer):
        raise ValueError(f"{text.name}: a text tokenizer of another kind")
    spec = settled(text.spec)
    if not isinstance(spec["model"]["vocab"], dict):
        kind = spec["model"].get("type")
        raise UserError(f"tokenizer.text={text.name}: a {kind} vocabulary cannot be written in a run's ids; choose a BPE")
    return spec


def _placed(spec: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The same with the ids of the vocabulary. An entry whose name something else needs gets another and is made of nothing."""
    first, model = vocabulary.modality(TEXT).first, spec["model"]
    special, codes = _special_names(vocabulary), _code_names(vocabulary)
    needed = {*special.values(), *codes.values()}
    called = {name: _other(name, model["vocab"]) for name in needed & model["vocab"].keys()}
    moved = {called.get(name, name): first + i for name, i in model["vocab"].items()}
    ids = {name: i for i, name in sorted((special | codes).items())} | moved
    model = {**model, "vocab": ids}
    if "merges" in model:
        model["merges"] = [pair for pair in map(_pair, model["merges"]) if not called.keys() & {*pair, "".join(pair)}]
    if model.get("unk_token") in called:
        model["unk_token"] = called[model["unk_token"]]
    added = [special_token(i, name) for i, name in sorted(special.items())]
    for token in spec["added_tokens"]:
        added.append(token | {"id": first + token["id"], "content": called.get(token["content"], token["content"])})
    bos = names.SPECIALS["bos"][0]
    return {**spec, "added_tokens": added, "post_processor": _behind(bos, vocabulary.specials.bos), "model": model}


def _special_names(vocabulary: Vocabulary) -> dict[int, str]:
    """Of every id that is neither text nor a code."""
    s = vocabulary.specials
    found = {i: names.SPECIALS[special][0] for special, i in (("pad", s.pad), ("bos", s.bos), ("eos", s.eos))}
    for m in vocabulary.modalities[1:]:
        found |= zip(m.frame, names.frame_names(m.name), strict=True)
    held = {i for m in vocabulary.modalities for i in range(m.first, m.last + 1)}
    spare = [i for i in range(vocabulary.size) if i not in held and i not in found]
    found |= {i: names.RESERVED.format(i) for i in spare}
    if names.IMAGE in vocabulary.names and spare:
        found[spare[0]] = names.PLACEHOLDER
    if len(vocabulary.modalities) == 1 and spare:
        found[spare[-1]] = names.TEXT_BEGINS
    return found


def _code_names(vocabulary: Vocabulary) -> dict[int, str]:
    return {m.first + code: names.code_name(m.name, code) for m in vocabulary.modalities[1:] for code in range(m.count)}


def _other(name: str, taken: dict[str, int]) -> str:
    return next(other for n in itertools.count() if (other := f"<text{n or ''}:{name}>") not in taken)


def _pair(merge: Any) -> list[str]:
    """Older files hold it as one string."""
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def _behind(bos: str, i: int) -> dict[str, Any]:
    """The post-processor that puts `bos` first."""
    start = {"SpecialToken": {"id": bos, "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    token = {"id": bos, "ids": [i], "tokens": [bos]}
    return {"type": "TemplateProcessing", "single": [start, a], "pair": [start, a, b], "special_tokens": {bos: token}}
