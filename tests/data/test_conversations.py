"""Conversations from the file to the targets, against a mark on every token; what is no conversation gets one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from momafuse.data.corpus import Corpus, Split
from momafuse.data.loader import Loader
from momafuse.data.packing import PackPlan
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Raw, open_source
from momafuse.errors import UserError
from momafuse.prepare import main
from momafuse.tokens.text import TextTokenizer
from tests.data import corpora

IMAGE = {"type": "image", "image": "a/b.png"}
ASK, ANSWER = {"role": "user", "content": "hm?"}, {"role": "assistant", "content": "yes"}


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_turns_become_segments(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "look: "}, IMAGE]
    asked = {"role": "user", "content": parts}
    rows = [[{"role": "system", "content": "s"}, asked, ANSWER, ASK], [ASK, {"role": "assistant", "content": [IMAGE]}]]
    path = write_rows(tmp_path / "a.jsonl", [{"messages": row} for row in rows])
    picture = Raw(None, str(tmp_path / "a" / "b.png"))
    first, second = open_source("c", corpora.source("conversations", path)).items()
    assert (first.segments, first.given) == (("s\n", "look: ", picture, "\n", "yes\n", "hm?"), (0, 1, 2, 3, 5))
    assert (second.segments, second.given) == (("hm?\n", picture), (0,))
    listed = [[{**turn, "content": table_parts(turn["content"])} for turn in row] for row in rows]
    (tmp_path / "p").mkdir()
    Dataset.from_dict({"messages": listed, "n": [1, 2]}).to_parquet(tmp_path / "p" / "a.parquet")
    again = list(open_source("c", corpora.source("conversations", tmp_path / "p")).items())
    assert [item.key for item in again] == [first.key, second.key]
    assert [item.given for item in again] == [first.given, second.given]


def table_parts(content: Any) -> list[dict[str, Any]]:
    """As a column of a table holds them: every part with every key."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [{"text": None, "image": None} | part for part in parts]


def test_the_command_makes_a_corpus_whose_answers_are_learnt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chats = corpora.write_conversations(tmp_path / "chats", 60)
    texts = corpora.write_conversations(tmp_path / "texts", 200, pictures=False)
    main([
        "data=conversations",
        f"data.path={tmp_path / 'corpus'}",
        f"data.sources.pictures.path={chats}",
        f"data.sources.texts.path={texts}",
        f"tokenizer.image={corpora.write_image_tokenizer(tmp_path / 'vq.safetensors')}",
    ])  # fmt: skip
    assert "is made" in capsys.readouterr().out
    corpus = Corpus.open(tmp_path / "corpus", verify=True)
    for split, name in ((corpus.train, "train"), (corpus.validation, "validation")):
        tokens, marks = plain_split(corpus, [chats, texts], name)
        assert tokens == np.where((split.tokens >= 8) & (split.tokens < 40), -1, split.tokens.astype(int)).tolist()
        assert split.given is not None
        assert split.given.tolist() == np.flatnonzero(np.diff(marks, prepend=False, append=False)).reshape(-1, 2).tolist()
    plan = PackPlan(corpus.train, (60, 4), {"pictures": 1.0, "texts": 1.0}, 0, 16)
    batch = Loader(corpus.train, corpus.vocabulary, plan, (60, 4), answers_only=True).batch(range(plan.sequences_per_epoch))
    whole = Loader(corpus.train, corpus.vocabulary, plan, (60, 4)).batch(range(plan.sequences_per_epoch))
    assert torch.equal(batch.tokens, whole.tokens)
    kept = batch.targets >= 0
    assert torch.equal(batch.targets[kept], whole.targets[kept])
    tokenizer = TextTokenizer.load("starter_bpe_v1")
    learnt = tokenizer.decode((batch.targets[kept & (batch.targets >= 40)] - 40).tolist())
    assert "answer" in learnt
    assert "in two lines" in learnt
    assert not any(word in learnt for word in ("question", "again", "draw", "thanks", "short"))
    assert (kept & (batch.targets >= 8) & (batch.targets < 40)).any()  # drawn pictures


def plain_split(corpus: Corpus, folders: list[Path], name: str) -> tuple[list[int], list[bool]]:
    """Every token of a split, -1 for a picture's codes, and whether it is given; one turn after the other."""
    tokenizer = TextTokenizer.load("starter_bpe_v1")
    tokens: list[int] = []
    marks: list[bool] = []
    for folder in folders:
        items = list(open_source("c", corpora.source("conversations", folder)).items())
        for line, item in zip((folder / "chats.jsonl").read_text().splitlines(), items, strict=True):
            if item.split != name:
                continue
            turns = json.loads(line)["messages"]
            tokens.append(1)
            marks.append(False)
            for turn in turns:
                written: list[str | None] = [part["text"] for part in table_parts(turn["content"])]
                if turn is not turns[-1]:
                    written = [*written, "\n"] if written[-1] is None else [*written[:-1], written[-1] + "\n"]
                for text in written:
                    ids = [3, -1, -1, -1, -1, 4] if text is None else [40 + int(i) for i in tokenizer.encode([text])[0]]
                    tokens += ids
                    marks += [turn["role"] != "assistant"] * len(ids)
            tokens.append(2)
            marks.append(turns[-1]["role"] != "assistant")
    return tokens, marks


@pytest.mark.parametrize("prompts_in", ["train", "validation"])
def test_a_split_without_prompts(tmp_path: Path, prompts_in: str) -> None:
    """The first row is held out. No mistake where only that one has no prompt; one where no other has."""
    held_out, others = ([ANSWER], [ASK, ANSWER]) if prompts_in == "train" else ([ASK, ANSWER], [ANSWER])
    path = write_rows(tmp_path / "a.jsonl", [{"messages": held_out}, {"messages": others}])
    config = corpora.config({"c": corpora.source("conversations", path)})
    corpus = prepare_corpus(config, tmp_path / "corpus", corpora.encoder())

    def loader(split: Split) -> Loader:
        plan = PackPlan(split, (8, 0), {"c": 1.0}, 0, 16)
        return Loader(split, corpus.vocabulary, plan, (8, 0), answers_only=True)

    if prompts_in == "train":
        assert corpus.validation.given is not None
        assert corpus.validation.given.shape == (0, 2)
        assert (loader(corpus.train).batch([0]).targets == -1).sum() > (
            loader(corpus.validation).batch([0]).targets == -1
        ).sum()
    else:
        with pytest.raises(UserError, match=r"objective\.answers_only=true: this corpus marks nothing as given"):
            loader(corpus.train)


def test_a_missing_picture_is_rejected(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"messages": [ASK, ANSWER]}, {"messages": [{"role": "user", "content": [IMAGE]}]}])
    config = corpora.config({"c": corpora.source("conversations", path)})
    with pytest.raises(UserError, match=r"1 of 2 documents cannot be used, .*No such file or directory: '.*a/b\.png'"):
        prepare_corpus(config, tmp_path / "corpus", corpora.encoder())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, r'a line without "messages": '),
        ({"messages": None}, "no messages; give a list"),
        ({"messages": []}, "no messages; give a list"),
        (
            {"messages": [ASK, {"role": "tool", "content": "a"}]},
            r"messages\[1\]\.role=tool: no such role; there are system",
        ),
        ({"messages": ["hm?"]}, r"messages\[0\]\.role=None: no such role"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, r"messages\[0\]\.role=\['user'\]: no such role"),
        ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\]\.content: give a text, or a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "a"}]}]}, r"messages\[0\]\.content: give a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}]}, r"messages\[0\]\.content: "),
    ],
)
def test_what_is_no_conversation_gets_one_line(tmp_path: Path, row: Any, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": [ASK, ANSWER]}) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(
        UserError, match=rf"path=.*: cannot read a column messages from the files: a\.jsonl, row 3: {message}"
    ) as caught:
        open_source("mine", corpora.source("conversations", path))
    assert "\n" not in str(caught.value)


def test_a_folder_without_conversations_is_named(tmp_path: Path) -> None:
    corpora.write_pictures(tmp_path, 2)
    with pytest.raises(
        UserError, match=r"path=.*: no messages here; give a folder of \.jsonl, of \.jsonl\.gz or of \.parquet files$"
    ):
        open_source("mine", corpora.source("conversations", tmp_path))


def test_another_picture_is_another_source(tmp_path: Path) -> None:
    config = corpora.source("conversations", corpora.write_conversations(tmp_path, 3))
    before = open_source("mine", config).fingerprint
    (tmp_path / "deep" / "0.png").write_bytes((tmp_path / "deep" / "1.png").read_bytes() + b"\0")
    assert open_source("mine", config).fingerprint != before
