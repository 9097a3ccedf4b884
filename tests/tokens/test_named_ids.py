"""The layouts that files name: Chameleon's released one, those made by `with_codes`, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from momafuse.errors import UserError
from momafuse.tokens.modality import Modality
from momafuse.tokens.named_ids import named_ids
from momafuse.tokens.names import code_name, specials_of
from momafuse.tokens.naming import with_codes
from momafuse.tokens.tokenizer_json import JsonTokenizer
from momafuse.tokens.vocabulary import Specials, Vocabulary
from tests.tokens import json_files
from tests.tokens.test_tokenizer_json import GPT_2, LLAMA_2, LLAMA_3, UNIGRAM, tokenizer

Change = Callable[[dict[str, Any]], object]


def test_codes_are_spelt_in_letters() -> None:
    names = {0: "IMGIMGAZ", 7: "IMGIMGHZ", 10: "IMGIMGBAZ", 8191: "IMGIMGIBJBZ"}
    assert {code: code_name("image", code) for code in names} == names
    assert code_name("speech", 10) == "<speech:10>"


def test_the_released_layout_is_chameleon_s() -> None:
    spec, codes = json_files.chameleon()
    read = tokenizer(spec)
    assert read.layout is not None
    assert read.layout.vocabulary({"image": (8192, 1024)}) == Vocabulary.chameleon()
    assert read.image_codes is not None
    assert read.image_codes.dtype == np.int64
    assert read.image_codes.tolist() == codes
    assert read.pieces == Vocabulary.chameleon().modality("text").count
    judge = Tokenizer.from_str(json.dumps(spec))
    for text, ids in zip(json_files.TEXTS, read.encode(json_files.TEXTS), strict=True):
        assert (ids + 8198).tolist() == judge.encode(text, add_special_tokens=False).ids
        assert read.decode(ids) == text


def test_text_alone_of_a_file_with_codes_leaves_them_unused() -> None:
    v = Vocabulary.chameleon()
    layout = tokenizer(json_files.chameleon()[0]).layout
    assert layout is not None
    assert layout.vocabulary({}) == Vocabulary(v.size, v.specials, v.modalities[:1])


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (LLAMA_2, {"bos": 1, "eos": 2}),
        (LLAMA_3, {"bos": 400, "eos": 401}),
        (GPT_2, {"bos": 400, "eos": 400}),
        (UNIGRAM, {"pad": 0, "eos": 1}),
        (json_files.byte_level(["<bos>", "<eos>", "<pad>"]), {"bos": 400, "eos": 401, "pad": 402}),
        (json_files.byte_level([]), {}),
    ],
)
def test_specials_go_by_many_names(spec: dict[str, Any], found: dict[str, int]) -> None:
    assert specials_of(spec) == found


@pytest.mark.parametrize(
    ("spec", "vocabulary"),
    [
        (
            LLAMA_3,
            Vocabulary(419, Specials(418, 400, 401), (Modality("text", 0, 400), Modality("image", 403, 12, 4, 415, 416))),
        ),
        (GPT_2, Vocabulary(417, Specials(416, 400, 400), (Modality("text", 0, 400), Modality("image", 401, 12, 4, 413, 414)))),
    ],
)
def test_codes_lie_behind_a_text_model_s_ids(spec: dict[str, Any], vocabulary: Vocabulary) -> None:
    before = json.dumps(spec)
    read = tokenizer(with_codes(spec, 12))
    assert json.dumps(spec) == before
    assert read.layout is not None
    assert read.layout.vocabulary({"image": (12, 4)}) == vocabulary
    assert read.image_codes is not None
    assert read.image_codes.tolist() == list(range(12))
    judge, with_names = Tokenizer.from_str(before), Tokenizer.from_str(json.dumps(with_codes(spec, 12)))
    assert with_names.get_vocab().items() >= judge.get_vocab().items()
    for text in json_files.TEXTS:
        assert with_names.encode(text).ids == judge.encode(text).ids


def test_pieces_of_a_llama_2_begin_behind_its_specials() -> None:
    read, size = tokenizer(with_codes(LLAMA_2, 12)), len(LLAMA_2["model"]["vocab"])
    assert read.layout is not None
    v = read.layout.vocabulary({"image": (12, 4)})
    assert v.modality("text") == Modality("text", 3, size - 3)
    assert v.specials == Specials(size + 12 + 3, 1, 2)
    (ids,) = read.encode(["a tree"])
    assert (ids + 3).tolist() == tokenizer(LLAMA_2).encode(["a tree"])[0].tolist()


def test_what_takes_no_codes_is_one_line() -> None:
    with pytest.raises(UserError, match="a Unigram vocabulary takes no codes; choose"):
        with_codes(UNIGRAM, 12)
    with pytest.raises(UserError, match="names codes already; take"):
        with_codes(with_codes(GPT_2, 12), 12)
    with pytest.raises(UserError, match=r"no bos; add one of <s>"):
        with_codes(json_files.byte_level([]), 12)


def test_a_file_without_codes_names_no_layout() -> None:
    for spec in (LLAMA_2, LLAMA_3, GPT_2, UNIGRAM):
        assert named_ids(spec, "x") is None


def _renamed(old: str, new: str) -> Change:
    def change(spec: dict[str, Any]) -> None:
        vocab = spec["model"]["vocab"]
        vocab[new] = vocab.pop(old)
        spec["added_tokens"] = [t | {"content": new if t["content"] == old else t["content"]} for t in spec["added_tokens"]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_renamed("IMGIMGFZ", "nothing"), "codes of image that are not one range"),
        (_renamed("IMGIMGFZ", "IMGIMGBCZ"), "codes of image that are not one range"),
        (_renamed("<racm3:break>", "nothing"), "no <racm3:break>"),
        (_renamed("<eoss>", "nothing"), "no <eoss>"),
        (_renamed("<pad>", "nothing"), r"no pad \(none of <pad> "),
        (_renamed("<|end_of_text|>", "nothing"), r"no eos \(none of </s> "),
    ],
)
def test_a_layout_that_cannot_be_used_is_one_line(change: Change, said: str) -> None:
    spec = json.loads(json.dumps(with_codes(LLAMA_3, 12)))
    change(spec)
    with pytest.raises(UserError, match=f"^tokenizer.text=x.json: this file names the ids of a run, but has {said}.*; choose"):
        JsonTokenizer("x.json", json.dumps(spec).encode())


def test_other_modalities_and_other_numbers_of_codes_are_one_line() -> None:
    layout = named_ids(with_codes(LLAMA_3, 12), "x.json")
    assert layout is not None
    with pytest.raises(
        UserError, match=r"tokenizer\.text=x\.json: .* names 12 codes of image, but tokenizer\.image has 8,192; "
    ):
        layout.vocabulary({"image": (8192, 64)})
    with pytest.raises(
        UserError, match=r"tokenizer\.text=x\.json: .* text, image and of nothing else; leave out tokenizer\.speech"
    ):
        layout.vocabulary({"image": (12, 4), "speech": (500, 0)})
