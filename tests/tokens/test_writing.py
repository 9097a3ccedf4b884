"""What is written gives transformers the ids of the run, and reads back as what was written."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoTokenizer, ChameleonImageProcessorPil, ChameleonProcessor

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.starter import starter_glosses
from momafuse.errors import UserError
from momafuse.tokens import names
from momafuse.tokens.config import BPEConfig
from momafuse.tokens.merges import spec_of
from momafuse.tokens.modality import Modality
from momafuse.tokens.naming import with_codes
from momafuse.tokens.sentencepieces import SentencePieces, train_bpe
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.tokenizer_json import JsonTokenizer
from momafuse.tokens.vocabulary import Specials, Vocabulary
from momafuse.tokens.writing import to_tokenizer_json, tokenizer_config
from tests.tokens import json_files
from tests.tokens.test_tokenizer_json import GPT_2, LLAMA_2, LLAMA_3, UNIGRAM, tokenizer

STARTER = TextTokenizer.load("starter_bpe_v1")
OTHERS: dict[str, dict[str, tuple[int, int]]] = {
    "text": {},
    "image": {"image": (300, 64)},
    "speech": {"speech": (50, 0)},
    "both": {"speech": (50, 0), "image": (300, 64)},
}
ODD = [
    "",
    " ",
    "  two  ",
    "\u2581",
    "a\u2581 b",
    "\0",
    "\r\n\t",
    "\ufffd",
    "e\u0301",
    "<0x41>",
    "<unk>",
    "\U0001f600\U0001f3fd",
]
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
CROWDED = st.text("abc ab", max_size=60)


def hf(folder: Path, data: bytes, length: int = 512) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(data)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(data, length)))
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def glosses() -> list[str]:
    items = starter_glosses(SourceConfig("starter_glosses")).items()
    return [
        segment for _, item in zip(range(3000), items, strict=False) for segment in item.segments if isinstance(segment, str)
    ]


# A sentencepiece BPE


@pytest.mark.parametrize("others", OTHERS)
def test_transformers_gives_the_ids_of_a_run(others: str, tmp_path: Path, glosses: list[str]) -> None:
    v = Vocabulary.build(STARTER.pieces, **OTHERS[others])
    judge = hf(tmp_path, to_tokenizer_json(STARTER, v))
    first, texts = v.modality("text").first, [*glosses, *ODD]
    assert (judge.pad_token_id, judge.bos_token_id, judge.eos_token_id) == (0, 1, 2)
    assert (len(judge), judge.model_max_length, judge.is_fast) == (v.size, 512, True)
    for text, ids, found in zip(texts, STARTER.encode(texts), judge(texts)["input_ids"], strict=True):
        if text not in ("<unk>", "<0x41>"):
            assert found == [1, *(ids + first).tolist()]
            assert judge.decode(found, skip_special_tokens=True) == text
    assert judge("a", add_special_tokens=False)["input_ids"] == (STARTER.encode(["a"])[0] + first).tolist()
    for modality in v.modalities[1:]:
        tokens = judge.convert_ids_to_tokens(range(modality.first, modality.last + 1))
        assert tokens == [names.code_name(modality.name, code) for code in range(modality.count)]
        assert judge.convert_tokens_to_ids(names.frame_names(modality.name)) == [*modality.frame]


LIBRARY = Tokenizer.from_str(json.dumps(spec_of(STARTER)))  # type: ignore[arg-type]


@given(UNICODE | st.text("aeinst \u2581\n<>"))
def test_merges_give_what_scores_give(text: str) -> None:
    assert LIBRARY.encode(text).ids == STARTER.encode([text])[0].tolist()
    assert LIBRARY.decode(LIBRARY.encode(text).ids) == text


@pytest.mark.parametrize("seed", range(4))
def test_any_bpe_of_ours_is_the_same(seed: int) -> None:
    """Few letters make pieces that overlap with themselves."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices("ab " if seed % 2 else "aabc ", k=30)) for _ in range(400)]
    trained = SentencePieces("x", train_bpe(texts, BPEConfig("bpe", "x", 330, 1.0)))
    judge = Tokenizer.from_str(json.dumps(spec_of(trained)))
    for text, ids in zip(texts, trained.encode(texts), strict=True):
        assert judge.encode(text).ids == ids.tolist()


# Reading back


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize(
    "text", [STARTER, tokenizer(GPT_2), tokenizer(LLAMA_2), tokenizer(LLAMA_3)], ids=["starter", "gpt_2", "llama_2", "llama_3"]
)
def test_what_was_written_reads_back(text: TextTokenizer, others: str) -> None:
    v = Vocabulary.build(text.pieces, **OTHERS[others])
    written = to_tokenizer_json(text, v)
    again = JsonTokenizer("x.json", written)
    assert again.layout is not None
    assert again.layout.vocabulary(OTHERS[others]) == v
    texts = [*json_files.TEXTS, *ODD, "<s>", "IMGIMGAZ <image> <|endoftext|>", "<speech:7><reserved00007>"]
    for mine, found in zip(text.encode(texts), again.encode(texts), strict=True):
        assert mine.tolist() == found.tolist()
        assert text.decode(mine) == again.decode(found)
    assert to_tokenizer_json(again, v) == written
    assert (again.image_codes is None) == ("image" not in OTHERS[others])


@given(UNICODE | CROWDED)
def test_a_text_has_the_same_pieces_read_back(text: str) -> None:
    assert BACK.encode([text])[0].tolist() == STARTER.encode([text])[0].tolist()
    assert BACK.decode(BACK.encode([text])[0]) == text


BACK = JsonTokenizer("x.json", to_tokenizer_json(STARTER, Vocabulary.build(STARTER.pieces, image=(300, 64))))


# A tokenizer.json


@pytest.mark.parametrize("spec", [GPT_2, LLAMA_2, LLAMA_3], ids=["gpt_2", "llama_2", "llama_3"])
def test_a_file_used_from_scratch_has_its_ids_moved(spec: dict[str, Any], tmp_path: Path) -> None:
    text = tokenizer(spec)
    v = Vocabulary.build(text.pieces, image=(300, 64))
    judge, first = hf(tmp_path, to_tokenizer_json(text, v)), v.modality("text").first
    texts = [*json_files.TEXTS, *ODD]
    for one, ids, found in zip(texts, text.encode(texts), judge(texts)["input_ids"], strict=True):
        if one != "<unk>":
            assert found == [1, *(ids + first).tolist()]
            assert judge.decode(found, skip_special_tokens=True) == text.decode(ids)


def test_a_file_that_names_its_layout_stays_as_it_is(tmp_path: Path) -> None:
    spec, _ = json_files.chameleon()
    spec["post_processor"] = json_files.llama_2()["post_processor"] | {
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
    }
    data = json.dumps(spec, indent=3).encode()
    assert to_tokenizer_json(JsonTokenizer("x.json", data), Vocabulary.chameleon()) == data
    with pytest.raises(ValueError, match="another vocabulary"):
        to_tokenizer_json(JsonTokenizer("x.json", data), Vocabulary.build(57_338, image=(8192, 1024)))
    judge = hf(tmp_path, data, 4096)
    assert (judge.sep_token_id, judge.image_token_id, judge.boi_token_id, judge.eoi_token_id) == (8710, 8711, 8197, 8196)


@pytest.mark.parametrize("post", [None, GPT_2["post_processor"]])
def test_a_file_that_leaves_bos_to_its_reader_puts_it_first(post: dict[str, Any] | None, tmp_path: Path) -> None:
    spec, _ = json_files.chameleon()
    text, v = JsonTokenizer("x.json", json.dumps(spec | {"post_processor": post}).encode()), Vocabulary.chameleon()
    ids = text.encode(["a red apple"])[0] + v.modality("text").first
    written = to_tokenizer_json(text, v)
    assert hf(tmp_path, written, 4096)("a red apple")["input_ids"] == [v.specials.bos, *ids.tolist()]
    assert to_tokenizer_json(JsonTokenizer("y.json", written), v) == written


def test_pieces_with_names_of_ours_are_kept_apart() -> None:
    words = ["IMGIMGAZ IMGIMGBZ", "the tree", "a bird"] * 40
    text = SentencePieces("x", train_bpe(words, BPEConfig("bpe", "x", 300, 1.0)))
    assert len(text.encode(["IMGIMGAZ"])[0]) == 1
    v = Vocabulary.build(text.pieces, image=(30, 4))
    again = JsonTokenizer("x.json", to_tokenizer_json(text, v))
    assert again.layout is not None
    assert again.layout.vocabulary({"image": (30, 4)}) == v
    (ids,) = again.encode(["IMGIMGAZ"])
    assert len(ids) > 1  # the piece that a code has the name of is made of nothing
    assert again.decode(ids) == "IMGIMGAZ"
    assert again.encode(["the tree a bird"])[0].tolist() == text.encode(["the tree a bird"])[0].tolist()


# Its config, and what cannot be written


def test_the_processor_of_chameleon_takes_the_files(tmp_path: Path) -> None:
    v = Vocabulary.build(STARTER.pieces, image=(300, 64))
    judge = hf(tmp_path, to_tokenizer_json(STARTER, v))
    image = v.modality("image")
    assert (judge.image_token, judge.boi_token, judge.eoi_token) == ("<image>", "<racm3:break>", "<eoss>")
    assert (judge.boi_token_id, judge.eoi_token_id) == image.frame
    pictures = ChameleonImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = ChameleonProcessor(pictures, judge, image_seq_length=3)
    text = (STARTER.encode(["a tree"])[0] + v.modality("text").first).tolist()
    made = processor(text="<image>a tree", images=Image.new("RGB", (20, 20)))
    assert made["input_ids"].tolist() == [[1, image.begin, 5, 5, 5, image.end, *text, 6]]
    assert (judge.sep_token, judge.sep_token_id) == ("<reserved00006>", 6)


def test_a_config_names_what_the_file_has() -> None:
    plain = tokenizer_config(to_tokenizer_json(STARTER, Vocabulary.build(STARTER.pieces)), 64)
    assert "extra_special_tokens" not in plain
    config = tokenizer_config(json.dumps(with_codes(LLAMA_3, 12)).encode(), 4096)
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == ("<|begin_of_text|>", "<|end_of_text|>", "<pad>")
    assert config["extra_special_tokens"]["image_token"] == "<image>"
    assert config["sep_token"] == "<|end_of_text|>"


def test_what_cannot_be_written_is_one_line() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.text=x\.json: a Unigram vocabulary cannot be written"):
        to_tokenizer_json(tokenizer(UNIGRAM), Vocabulary.build(tokenizer(UNIGRAM).pieces))
    with pytest.raises(ValueError, match="4088 pieces, the vocabulary 30"):
        to_tokenizer_json(STARTER, Vocabulary.build(30))
    with pytest.raises(ValueError, match="names do not tell the ids"):
        to_tokenizer_json(tokenizer(GPT_2), Vocabulary(404, Specials(0, 1, 2), (Modality("text", 3, 401),)))


def test_a_sentencepiece_model_that_is_no_bpe_is_one_line() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(json_files.TEXTS * 9), model_writer=model, model_type="unigram", vocab_size=330, minloglevel=2,
        byte_fallback=True, add_dummy_prefix=False, normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False,
    )  # fmt: skip
    text = SentencePieces("x.model", model.getvalue())
    with pytest.raises(UserError, match=r"tokenizer\.text=x\.model: only a plain BPE can be written"):
        to_tokenizer_json(text, Vocabulary.build(text.pieces))
