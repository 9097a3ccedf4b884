"""Any text goes through the BPE and back unchanged; a model that cannot do that is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from momafuse.errors import UserError
from momafuse.tokens.config import BPEConfig
from momafuse.tokens.sentencepieces import SentencePieces, train_bpe
from momafuse.tokens.text import TextTokenizer

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates too
WORDS = [f"{a}{b} {c}" for a in "abcdefgh" for b in "aeiou" for c in ("dog", "cat", "house")]


@pytest.fixture(scope="module")
def shipped() -> TextTokenizer:
    return TextTokenizer.load("starter_bpe_v1")


@given(ANY_TEXT)
def test_any_text_comes_back(text: str) -> None:
    tokenizer = TextTokenizer.load("starter_bpe_v1")
    (ids,) = tokenizer.encode([text])
    assert ids.dtype == np.int64
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.pieces for i in ids.tolist())


@given(st.text())
def test_what_each_piece_adds_makes_the_text(text: str) -> None:
    tokenizer = TextTokenizer.load("starter_bpe_v1")
    (ids,) = tokenizer.encode([text])
    spelled = tokenizer.spelled(ids)
    assert len(spelled) == len(ids)
    assert "".join(spelled) == text


def test_a_character_stands_with_its_last_piece(shipped: TextTokenizer) -> None:
    (ids,) = shipped.encode(["\U0001f600"])
    assert shipped.spelled(ids) == ["", "", "", "\U0001f600"]
    assert shipped.spelled([*ids[:2], *shipped.encode(["a"])[0]]) == ["", "", "\ufffda"]
    assert shipped.spelled(ids[:2]) == ["", "\ufffd"]
    assert shipped.spelled([]) == []


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "   ", "\n", "\t", "\0", "\r\n", " leading", "trailing ", "two  spaces", "a\tb\nc\n\n d"),
        *("\u2581", "a\u2581b", " \u2581 ", "\u2581\u2581x", "\u2047", "\ufeff", "\ufffd", "\U0001f600\U0001f3fd"),
        *("\ud800", "\udfff", "\ud83d\ude00", "a\udc80b", "e\u0301 \u00e9", "<unk>", "<s>", "<0x41>", "\u3042\u4e2d"),
    ],
)
def test_odd_text_comes_back(shipped: TextTokenizer, text: str) -> None:
    assert shipped.decode(shipped.encode([text])[0]) == text


@given(st.lists(ANY_TEXT, max_size=8))
def test_a_batch_is_its_texts_one_by_one(texts: list[str]) -> None:
    tokenizer = TextTokenizer.load("starter_bpe_v1")
    batch = tokenizer.encode(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode([text], threads=1)[0].tolist() for text in texts]


def test_the_space_sign_is_not_a_space(shipped: TextTokenizer) -> None:
    space, sign = shipped.encode(["a b", "a\u2581b"])
    assert space.tolist() != sign.tolist()


@given(st.lists(st.integers(0, 4087)))
def test_any_row_of_pieces_decodes(ids: list[int]) -> None:
    """A sampled row may hold bytes that are no UTF-8."""
    assert isinstance(TextTokenizer.load("starter_bpe_v1").decode(ids), str)


def test_cut_bytes_become_the_replacement_character(shipped: TextTokenizer) -> None:
    (ids,) = shipped.encode(["\U0001f600"])
    assert len(ids) == 4
    assert set(shipped.decode(ids[:3])) == {"\ufffd"}


def test_the_shipped_tokenizer_compresses_its_text(shipped: TextTokenizer) -> None:
    text = "penguin: animal, antarctica, bird. a short-legged flightless bird of cold southern regions"
    assert shipped.pieces == 4088
    assert len(shipped.encode([text])[0]) < len(text) / 3


def test_training_gives_the_same_bytes_again() -> None:
    config = BPEConfig("bpe", "small", 300, 1.0)
    model = train_bpe(WORDS, config)
    assert train_bpe(iter(WORDS), config) == model
    tokenizer = SentencePieces("small", model)
    assert tokenizer.pieces == 300
    assert train_bpe(WORDS[:-1], config) != model


def test_odd_training_texts_do_no_harm() -> None:
    train_bpe([*WORDS, "\ud800 lone", "\u2581\u2581", "", "a\nb\0c"], BPEConfig("bpe", "small", 300, 1.0))


def test_the_fingerprint_is_that_of_the_file(tmp_path: Path) -> None:
    paths = [tmp_path / "a.model", tmp_path / "b.model"]
    for path, pieces in zip(paths, (290, 300), strict=True):
        path.write_bytes(train_bpe(WORDS, BPEConfig("bpe", "small", pieces, 1.0)))
    first, second = (TextTokenizer.load(str(path)) for path in paths)
    assert (first.pieces, second.pieces) == (290, 300)
    assert first.fingerprint != second.fingerprint == TextTokenizer.load(str(paths[1])).fingerprint


def test_too_many_pieces_for_the_text_is_one_line() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.pieces=4088: .*value <= \d+.*; set fewer pieces"):
        train_bpe(["a b"], BPEConfig("bpe", "small", 4088, 1.0))
    with pytest.raises(UserError, match=r"tokenizer\.pieces=4088"):
        train_bpe([], BPEConfig("bpe", "small", 4088, 1.0))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.text=nonesuch: .*starter_bpe_v1"):
        TextTokenizer.load("nonesuch")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.model"
    for data in (b"", b"nonsense"):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"tokenizer\.text=.*x\.model"):
            TextTokenizer.load(str(path))


@pytest.mark.parametrize("change", [{"byte_fallback": False}, {"add_dummy_prefix": True}, {"normalization_rule_name": "nfkc"}])
def test_a_model_that_loses_text_is_refused(change: dict[str, object]) -> None:
    model = io.BytesIO()
    options = {"byte_fallback": True, "add_dummy_prefix": False, "normalization_rule_name": "identity"} | change
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS), model_writer=model, model_type="bpe", vocab_size=290, minloglevel=2,
        hard_vocab_limit=False, remove_extra_whitespaces=False, **options,
    )  # fmt: skip
    with pytest.raises(UserError, match="does not give every text back"):
        SentencePieces("lossy", model.getvalue())
