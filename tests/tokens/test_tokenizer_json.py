"""A tokenizer.json gives what the library gives, never a special token, and comes back as text."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from momafuse.errors import UserError
from momafuse.tokens.naming import with_codes
from momafuse.tokens.sentencepieces import train_bpe
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.tokenizer_json import JsonTokenizer
from tests.tokens import json_files

LLAMA_3 = json_files.byte_level(["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_0|>"], ignore_merges=True)
GPT_2 = json_files.byte_level(["<|endoftext|>"])
LLAMA_2 = json_files.llama_2()
UNIGRAM = json_files.unigram()
ALL = {"llama_3": LLAMA_3, "gpt_2": GPT_2, "llama_2": LLAMA_2, "unigram": UNIGRAM}
SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<pad>",
    "<racm3:break>",
    "<eoss>",
    "<image>",
]
SPECIALS += ["IMGIMGAZ", "IMGIMGHZ", "IMGIMGBAZ"]
ANY_TEXT = st.text(st.characters(exclude_categories=()))
SPELT = st.lists(st.sampled_from([*SPECIALS, " ", "a", "the tree", "IMGIMG"])).map("".join)


def tokenizer(spec: dict[str, Any], name: str = "x.json") -> JsonTokenizer:
    return JsonTokenizer(name, json.dumps(spec).encode())


READ = {name: tokenizer(spec) for name, spec in ALL.items()}
READ |= {f"{name}_codes": tokenizer(with_codes(spec, 12)) for name, spec in ALL.items() if name != "unigram"}


@pytest.mark.parametrize("name", ALL)
def test_ids_are_the_library_s(name: str) -> None:
    judge = Tokenizer.from_str(json.dumps(ALL[name]))
    assert READ[name].pieces == judge.get_vocab_size()
    for threads in (0, 1):
        for text, ids in zip(json_files.TEXTS, READ[name].encode(json_files.TEXTS, threads), strict=True):
            assert ids.dtype == np.int64
            assert ids.tolist() == judge.encode(text, add_special_tokens=False).ids
            assert READ[name].decode(ids) == judge.decode(ids.tolist())


@pytest.mark.parametrize("name", [name for name in READ if "unigram" not in name])
def test_texts_come_back(name: str) -> None:
    read = READ[name]
    for text in json_files.TEXTS:
        (ids,) = read.encode([text])
        assert read.decode(ids) == text
        assert "".join(read.spelled(ids)) == text


@pytest.mark.parametrize("name", READ)
@given(text=ANY_TEXT | SPELT)
def test_text_is_never_a_special_token_or_a_code(name: str, text: str) -> None:
    read = READ[name]
    first = read.layout.text.first if read.layout else 0
    (ids,), (alone,) = read.encode([text]), read.encode([text], threads=1)
    assert ids.tolist() == alone.tolist()
    assert all(0 <= i < read.pieces for i in ids.tolist())
    names = [read._tokenizer.id_to_token(i + first) for i in ids.tolist()]
    assert not {*names} & {*SPECIALS}
    if "unigram" not in name:
        assert read.decode(ids) == text.encode("utf-16", "surrogatepass").decode(
            "utf-16", "replace"
        ) or "\ufffd" in read.decode(ids)


@pytest.mark.parametrize("name", READ)
@given(data=st.data())
def test_any_row_of_pieces_is_spelt_as_it_decodes(name: str, data: st.DataObject) -> None:
    read = READ[name]
    ids = data.draw(st.lists(st.integers(0, read.pieces - 1), max_size=20))
    spelt = read.spelled(ids)
    assert len(spelt) == len(ids)
    if "\ufffd" not in read.decode(ids):
        assert "".join(spelt) == read.decode(ids)


def test_a_character_stands_with_its_last_piece() -> None:
    read = tokenizer(json_files.byte_level([], 256))
    (ids,) = read.encode(["a\U0001f600b"])
    assert read.spelled(ids) == ["a", "", "", "", "\U0001f600", "b"]
    assert read.spelled([]) == []


def test_padding_and_truncation_of_a_file_are_not_used() -> None:
    judge = Tokenizer.from_str(json.dumps(GPT_2))
    judge.enable_truncation(3)
    judge.enable_padding(length=50)
    read = tokenizer(json.loads(judge.to_str()))
    assert read.encode(json_files.TEXTS)[0].tolist() == READ["gpt_2"].encode(json_files.TEXTS)[0].tolist()


def test_a_file_whose_added_tokens_leave_a_hole_keeps_their_ids() -> None:
    spec = json.loads(json.dumps(GPT_2))
    spec["added_tokens"][0]["id"] = 500
    read = tokenizer(spec)
    assert read.pieces == 501
    assert read.decode([500]) == ""
    assert read.decode([499]) == ""


def test_a_tokenizer_is_known_by_its_file(tmp_path: Path) -> None:
    path = json_files.written(GPT_2, tmp_path / "mine.json")
    first, second = TextTokenizer.load(path), TextTokenizer.load(json_files.written(LLAMA_3, tmp_path / "other.json"))
    assert isinstance(first, JsonTokenizer)
    assert (first.name, first.image_codes, first.layout) == (path, None, None)
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == TextTokenizer.load(path).fingerprint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version": "1.0"}',
        b'{"model": {}}',
        b'{"model": null}',
        b'{"model": {"vocab": {}}}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_tokenizer_is_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=r"tokenizer\.text=.*tokenizer\.json: no tokenizer\.json of the .*; name another"
    ) as error:
        TextTokenizer.load(str(path))
    assert "\n" not in str(error.value)


def test_a_sentencepiece_model_is_none(tmp_path: Path) -> None:
    from tests.tokens.test_sentencepieces import WORDS

    path = tmp_path / "bpe.json"
    path.write_bytes(train_bpe(WORDS, json_files.SMALL))
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        TextTokenizer.load(str(path))
    with pytest.raises(UserError, match="no such file"):
        TextTokenizer.load(str(tmp_path / "missing.json"))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"tokenizer\.text=x\.json: needs tokenizers; pip install 'momafuse\[hf\]'"):
        tokenizer(GPT_2)


def test_a_character_without_a_piece_is_one_line() -> None:
    spec = json.loads(json.dumps(LLAMA_2))
    spec["model"]["byte_fallback"] = False
    assert tokenizer(spec).encode(["\u4e2d"])[0].tolist()[-1] == 0  # <unk> is a piece where the file names no codes
    with pytest.raises(UserError, match=r"tokenizer\.text=x\.json: has no piece for '\u4e2d'; "):
        tokenizer(with_codes(spec, 12)).encode(["\u4e2d"])


def test_forked_and_spawned_processes_encode(capfd: pytest.CaptureFixture[str]) -> None:
    expected = [ids.tolist() for ids in READ["gpt_2"].encode(json_files.TEXTS)]  # its threads have run here
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(_encoded, (json.dumps(GPT_2).encode(),)) == expected
    assert "tokenizers" not in capfd.readouterr().err


def _encoded(data: bytes) -> list[list[int]]:
    return [ids.tolist() for ids in JsonTokenizer("x.json", data).encode(json_files.TEXTS)]
