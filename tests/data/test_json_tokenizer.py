"""A corpus made with a tokenizer.json: from scratch and in the layout that the file names, and only with that file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from momafuse.config.schema import SourceConfig
from momafuse.data.codecs import vocabulary_of
from momafuse.data.corpus import KINDS, Corpus
from momafuse.data.encoding import Encoder
from momafuse.data.prepare import prepare_corpus
from momafuse.errors import UserError
from momafuse.tokens.naming import with_codes
from momafuse.tokens.text import TextTokenizer
from momafuse.tokens.vocabulary import Vocabulary
from momafuse.vision.codec import ImageCodec
from tests.data import corpora
from tests.small_corpus import make_small_corpus
from tests.tokens import json_files

GPT_2 = json_files.byte_level(["<|endoftext|>"])
LLAMA_3 = json_files.byte_level(["<|begin_of_text|>", "<|end_of_text|>"], ignore_merges=True)


def test_a_corpus_holds_the_ids_of_the_layout(sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    text = TextTokenizer.load(json_files.written(with_codes(LLAMA_3, 256), tmp_path / "mine.json"))
    encoder = Encoder(text, {"image": ImageCodec(corpora.PixelTokenizer())})
    corpus = prepare_corpus(corpora.config(sources), tmp_path / "corpus", encoder)
    assert corpus.vocabulary == vocabulary_of(text, encoder.codecs)
    assert (corpus.vocabulary.modality("image").first, corpus.vocabulary.specials.bos) == (402, 400)
    split = corpus.train
    first, wanted = corpus.vocabulary.modality("text").first, corpora.write_texts(tmp_path / "again.jsonl", 60)
    found = []
    for d in np.flatnonzero(split.kinds == KINDS.index("text")).tolist():
        ids = split.tokens[split.offsets[d] : split.offsets[d + 1]].astype(int).tolist()
        assert (ids[0], ids[-1]) == (400, 401)
        found.append(text.decode([i - first for i in ids[1:-1]]))
    assert {*found} <= {*wanted}
    assert len(found) > 40


def test_prepare_with_a_file_from_scratch_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = (json_files.written(spec, tmp_path / f"{n}.json") for n, spec in enumerate((GPT_2, LLAMA_3)))
    path = make_small_corpus(tmp_path / "corpus", monkeypatch, f"tokenizer.text={mine}")
    corpus = Corpus.open(path, {"text": mine})
    assert corpus.vocabulary == Vocabulary.build(401, image=(8192, 64))
    with pytest.raises(UserError, match=r"tokenizer\.text=.*1\.json: the corpus .* was made with .*0\.json"):
        Corpus.open(path, {"text": other})


def test_a_named_layout_of_other_codes_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = json_files.written(with_codes(GPT_2, 256), tmp_path / "mine.json")
    with pytest.raises(UserError, match=r"names 256 codes of image, but tokenizer\.image has 8,192"):
        make_small_corpus(tmp_path / "corpus", monkeypatch, f"tokenizer.text={mine}")
    assert not (tmp_path / "corpus").exists()
    assert json.loads(Path(mine).read_text())["model"]["type"] == "BPE"
