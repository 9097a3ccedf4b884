"""What the entries of a `tokenizer.json` are called that are no text, and which ids a parsed file gives them.

    pad, bos, eos        the first of their SPECIALS that the file has, of its added tokens before those of its vocabulary
    an image             <racm3:break> code.. <eoss>;  code 0 is IMGIMGAZ, 10 is IMGIMGBAZ: decimal digits, A for 0 to J for 9
    an item of NAME      <begin_NAME> code.. <end_NAME>;  code 10 is <NAME:10>
    <image>              stands for an image's codes in a prompt (as in Chameleon's processor), and is no id of a document
    <reserved00006>      an id that nothing has; Chameleon's processor ends a prompt with <reserved08706>, of ours the first
    <momafuse:text>      in a file without codes: its ids are those of a run, and text begins behind it

Those of images, and the first of each of SPECIALS, are those of Chameleon's released file. Does not judge whether a file is
whole (named_ids.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

IMAGE, PLACEHOLDER, TEXT_BEGINS = "image", "<image>", "<momafuse:text>"
RESERVED, SEPARATOR = "<reserved{:05d}>", "<reserved08706>"
SPECIALS = {
    "pad": ("<pad>", "<|pad|>", "<|finetune_right_pad_id|>", "<|padding|>", "[PAD]"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
}
_IMAGE_CODE = re.compile(r"IMGIMG([A-J]+)Z")
_CODE = re.compile(r"<(\w+):(\d+)>")
_BEGIN = re.compile(r"<begin_(\w+)>")
_DIGITS = str.maketrans("0123456789", "ABCDEFGHIJ")
_LETTERS = str.maketrans("ABCDEFGHIJ", "0123456789")

Spec = Mapping[str, Any]


def code_name(modality: str, code: int) -> str:
    return f"IMGIMG{str(code).translate(_DIGITS)}Z" if modality == IMAGE else f"<{modality}:{code}>"


def frame_names(modality: str) -> tuple[str, str]:
    return ("<racm3:break>", "<eoss>") if modality == IMAGE else (f"<begin_{modality}>", f"<end_{modality}>")


def vocabulary_ids(spec: Spec) -> dict[str, int]:
    """Of the model alone. Raises what a spec of another form raises."""
    vocab = spec["model"]["vocab"]
    return dict(vocab) if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}


def added_ids(spec: Spec) -> dict[str, int]:
    return {token["content"]: int(token["id"]) for token in spec.get("added_tokens") or ()}


def special_names(spec: Spec) -> dict[str, str]:
    """The names of pad, bos and eos in this file, those that it has."""
    added, vocab = added_ids(spec), vocabulary_ids(spec)
    found = {}
    for special, names in SPECIALS.items():
        if name := next((name for ids in (added, vocab) for name in names if name in ids), None):
            found[special] = name
    return found


def specials_of(spec: Spec) -> dict[str, int]:
    """The ids of pad, bos and eos in this file, those that it has; bos and eos may be one."""
    ids = vocabulary_ids(spec) | added_ids(spec)
    return {special: ids[name] for special, name in special_names(spec).items()}


def codes_of(ids: Mapping[str, int]) -> dict[str, list[tuple[int, int]]]:
    """Of each modality that has codes: its (id, code)s, in order of ids. Others than images have them only with a frame."""
    framed = {match[1] for name in ids if (match := _BEGIN.fullmatch(name))}
    found: dict[str, list[tuple[int, int]]] = {}
    for name, i in ids.items():
        if match := _IMAGE_CODE.fullmatch(name):
            found.setdefault(IMAGE, []).append((i, int(match[1].translate(_LETTERS))))
        elif (match := _CODE.fullmatch(name)) and match[1] in framed:
            found.setdefault(match[1], []).append((i, int(match[2])))
    return {modality: sorted(codes) for modality, codes in found.items()}
