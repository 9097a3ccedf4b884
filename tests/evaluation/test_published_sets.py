"""The tasks of MoMa's Table 3 on small files of the published forms: every target that a task means, and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from momafuse.config.compose import compose, load_config
from momafuse.data.corpus import Corpus
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Raw, open_source
from momafuse.evaluation.held_out import Results, evaluate_run
from momafuse.evaluation.sequences import held_out_sequences
from momafuse.tokens.text import TextTokenizer
from tests.data import corpora
from tests.data.published import write_karpathy, write_vqa
from tests.evaluation.test_evaluate import config_of
from tests.training.conftest import Train

COUNT = 24  # pictures
Evaluate = Callable[..., tuple[Results, Corpus]]


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    segments = [item.segments[0] for item in open_source("s", corpora.source("starter_pictures", None)).items()][:COUNT]
    return [picture.read() for picture in segments if isinstance(picture, Raw)]


@pytest.fixture
def evaluate(run: Train, tmp_path: Path) -> Evaluate:
    """Prepare a set alone, with the shipped tokenizers, and evaluate a dense run of one step on it."""

    def prepared_and_evaluated(data: str, path: Path, *more: str) -> tuple[Results, Corpus]:
        folder = run("trainer.max_steps=1", experiment="dense")
        source = "documents" if data == "obelics" else "pictures"
        words = [f"data={data}", f"data.sources.{source}.path={path}", "~data.sources.texts", "data.sequence_length=256"]
        corpus = prepare_corpus(compose([*words, *more]).config, tmp_path / "corpus")
        return evaluate_run(config_of(folder, f"data.path={corpus.path}", "sequences=1000")), corpus

    return prepared_and_evaluated


def tokens_of(corpus: Corpus, *texts: str) -> int:
    tokenizer = TextTokenizer.load(compose(["data=starter"]).config.tokenizer["text"])
    return sum(len(ids) for ids in tokenizer.encode(list(texts)))


@pytest.mark.parametrize("coco", [True, False])
def test_captions_given_pictures(evaluate: Evaluate, tmp_path: Path, pictures: list[bytes], coco: bool) -> None:
    path = write_karpathy(tmp_path / "set", pictures, coco)
    results, _ = evaluate("coco" if coco else "flickr30k", path, "data.sources.pictures.reader=karpathy_i2t")
    losses = results.losses["causal"]
    assert losses["text_given_image"] == losses["answers"]
    per_caption = losses["text_given_image"][1] / (results.sequences * 3)  # three pictures a sequence
    assert 5 <= per_caption <= 12  # of "Picture 3, caption 0."
    assert "image_given_text" not in losses
    assert losses["pictures/image"][1] == losses["image"][1] == results.sequences * 3 * 64


def test_pictures_given_captions(evaluate: Evaluate, tmp_path: Path, pictures: list[bytes]) -> None:
    path = write_karpathy(tmp_path / "set", pictures, coco=True)
    results, _ = evaluate("coco", path, "data.sources.pictures.reader=karpathy_t2i")
    losses = results.losses["causal"]
    assert losses["image_given_text"] == losses["image"]
    assert not {"text_given_image", "answers"} & set(losses)


def test_answers_given_picture_and_question(evaluate: Evaluate, tmp_path: Path, pictures: list[bytes]) -> None:
    results, corpus = evaluate("vqa_v2", write_vqa(tmp_path / "set", pictures))
    losses = results.losses["causal"]
    answers = losses["answers"]
    assert not {"text_given_image", "interleaved_text", "interleaved_image"} & set(losses)
    numbers = range(5, COUNT)  # val2014
    assert answers[1] <= tokens_of(corpus, *(f"it {n}" for n in numbers)) < losses["text"][1]
    assert answers[1] >= 0.8 * tokens_of(corpus, *(f"it {n}" for n in numbers))  # the last sequence may lack pictures


def test_interleaved_documents(evaluate: Evaluate, run: Train, tmp_path: Path, pictures: list[bytes]) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for n, data in enumerate(pictures):
        (folder / f"{n}.webp").write_bytes(data)
    count = 400  # about 2 % are held out
    rows = {
        "images": [[None, f"{n % COUNT}.webp", None, f"{(n + 7) % COUNT}.webp"] for n in range(count)],
        "texts": [[f"Before {n}", None, f"between {n}", None] for n in range(count)],
    }
    Dataset.from_dict(rows | {"metadata": ["[]"] * count}).to_parquet(folder / "a.parquet")
    results, corpus = evaluate("obelics", folder)
    losses = results.losses["causal"]
    assert losses["interleaved_image"] == losses["image"]
    assert losses["interleaved_text"] == losses["text"]
    assert losses["image"][1] == results.sequences * 3 * 64
    held_out = held_out_sequences(load_config(run("trainer.max_steps=1", experiment="dense") / "config.yaml"), corpus)
    batch = held_out.loader.batch(range(results.sequences))
    assert losses["all"][1] == int((batch.targets >= 0).sum())
    assert torch.isfinite(torch.tensor([loss for loss, _ in losses.values()])).all()
