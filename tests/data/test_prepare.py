"""Preparing goes on where it was killed, to the same bytes; bad data ends as one line; the command says what it made."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from momafuse.config.schema import Config, SourceConfig
from momafuse.data import chunks, prepare
from momafuse.data.bpe import train_text_tokenizer
from momafuse.data.corpus import Corpus, unfinished
from momafuse.data.encoding import Encoder
from momafuse.data.prepare import corpus_path, open_or_prepare, prepare_corpus
from momafuse.data.progress import Progress
from momafuse.errors import UserError
from momafuse.prepare import main
from momafuse.reports.corpus import corpus_tree
from momafuse.tokens.config import BPEConfig
from momafuse.tokens.text import TextTokenizer
from tests.data import corpora

REPO = Path(__file__).resolve().parents[2]


def make(sources: dict[str, SourceConfig], path: Path, **changes: Any) -> Corpus:
    return prepare_corpus(corpora.config(sources, path, **changes), path, corpora.encoder())


# Killed and going on

KILLED = """
import json, os, signal, sys
from pathlib import Path
from momafuse.config.schema import SourceConfig
from momafuse.data import chunks, making, prepare, writer
from tests.data import corpora

path, sources, where, count = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
chunks.DOCUMENTS = 7
left = [count]

def die(name, function):
    def wrapper(*args, **kwargs):
        if name == where:
            left[0] -= 1
            if not left[0]:
                if name == "save":  # half of a part
                    args[1].with_suffix(".tmp").write_bytes(b"PK half of it")
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

writer.Part.save = die("save", writer.Part.save)
writer._Streams.append = die("append", writer._Streams.append)
making.write_json = die("write_json", making.write_json)
sources = {name: SourceConfig(**source) for name, source in sources.items()}
prepare.prepare_corpus(corpora.config(sources, path), path, corpora.encoder())
"""


def killed(path: Path, sources: dict[str, SourceConfig], where: str, count: int) -> int:
    """Runs the preparation in another process, which kills itself at the count-th call of `where`."""
    described = json.dumps({name: vars(source) for name, source in sources.items()})
    command = [sys.executable, "-c", KILLED, str(path), described, where, str(count)]
    return subprocess.run(command, cwd=REPO, env=os.environ | {"PYTHONPATH": str(REPO)}, check=False).returncode


def test_killed_anywhere_it_ends_with_the_same_bytes(
    sources: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "DOCUMENTS", 7)
    sources["chats"] = corpora.source("conversations", corpora.write_conversations(tmp_path / "chats", 20))
    expected = corpora.contents(make(sources, tmp_path / "undisturbed").path)
    assert {"train/given.npy", "validation/given.npy"} < expected.keys()
    path = tmp_path / "disturbed"
    for where, count, parts in [("save", 3, 2), ("save", 6, 7), ("save", 10, 16), ("append", 23, 18)]:
        assert killed(path, sources, where, count) == -signal.SIGKILL
        assert not path.exists()
        assert len(list(unfinished(path).glob("part_*.npz"))) == parts
    assert corpora.contents(make(sources, path).path) == expected
    assert not unfinished(path).exists()


def test_finished_parts_are_not_made_again(
    sources: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "DOCUMENTS", 7)
    path = tmp_path / "corpus"
    encoded: list[int] = []
    encode = Encoder.encode

    def counting(self: Encoder, items: Any, *more: Any, **named: Any) -> Any:
        encoded.append(len(items))
        if len(encoded) == 4:
            raise RuntimeError("power cut")
        return encode(self, items, *more, **named)

    monkeypatch.setattr(Encoder, "encode", counting)
    with pytest.raises(RuntimeError):
        make(sources, path)
    make(sources, path)
    assert sum(encoded) == 100 + 7


def test_parts_of_other_data_are_thrown_away(
    sources: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "DOCUMENTS", 7)
    path = tmp_path / "corpus"
    assert killed(path, sources, "save", 3) == -signal.SIGKILL
    corpora.write_pictures(tmp_path / "pictures", 30)
    (tmp_path / "pictures" / "031.png").unlink()
    made = make(sources, path)
    assert corpora.contents(made.path) == corpora.contents(make(sources, tmp_path / "fresh").path)


def test_chunk_sizes_do_not_matter(sources: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = corpora.contents(make(sources, tmp_path / "whole").path)
    for name, value in {"DOCUMENTS": 9, "ITEMS": 5, "CHARACTERS": 40}.items():
        with monkeypatch.context() as patch:
            patch.setattr(chunks, name, value)
            assert corpora.contents(make(sources, tmp_path / name).path) == whole


def test_two_at_once_make_one_corpus(sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    described = json.dumps({name: vars(source) for name, source in sources.items()})
    command = [sys.executable, "-c", KILLED, str(path), described, "nowhere", "1"]
    env = os.environ | {"PYTHONPATH": str(REPO)}
    both = [subprocess.Popen(command, cwd=REPO, env=env) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    Corpus.open(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus", "pictures", "texts.jsonl"]


# Rejects


def test_a_few_undecodable_pictures_are_listed(tmp_path: Path) -> None:
    captions = corpora.write_pictures(tmp_path / "pictures", 40, broken=(7, 20))
    corpus = make({"p": corpora.source("captioned_folder", tmp_path / "pictures")}, tmp_path / "corpus", rejects=0.05)
    lines = [json.loads(line) for line in (corpus.path / "rejects.jsonl").read_text().splitlines()]
    assert [(line["source"], line["key"]) for line in lines] == [("p", "007.png"), ("p", "020.png")]
    assert all(line["reason"] for line in lines)
    assert corpus.train.documents + corpus.validation.documents == len(captions) - 2
    assert corpus.manifest["rejects"] == 2


def test_too_many_stop_the_run_and_repaired_ones_are_read_again(tmp_path: Path) -> None:
    corpora.write_pictures(tmp_path / "pictures", 40, broken=(7, 20))
    sources = {"p": corpora.source("captioned_folder", tmp_path / "pictures")}
    path = tmp_path / "corpus"
    with pytest.raises(
        UserError, match=r"data\.sources\.p: 2 of 40 documents cannot be used, more than data\.max_rejects=0\.01"
    ) as caught:
        make(sources, path)
    assert "007.png (" in str(caught.value)
    assert "data.max_rejects=0.05" in str(caught.value)
    assert not path.exists()
    listed = unfinished(path) / "rejects.jsonl"
    assert str(listed) in str(caught.value)
    assert len(listed.read_text().splitlines()) == 2
    stat = (tmp_path / "pictures" / "001.png").stat()
    corpora.write_pictures(tmp_path / "pictures", 40)
    os.utime(tmp_path / "pictures" / "001.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert make(sources, path).manifest["rejects"] == 0


# What is refused


def test_an_empty_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n\n')
    with pytest.raises(UserError, match=r"data\.sources\.t\.path=.*blank\.jsonl: the source holds no documents"):
        make({"t": corpora.source("text_files", tmp_path / "blank.jsonl")}, tmp_path / "corpus")


def test_one_document_cannot_be_trained_and_held_out(tmp_path: Path) -> None:
    corpora.write_texts(tmp_path / "t.jsonl", 1)
    with pytest.raises(UserError, match="no train documents"):
        make({"t": corpora.source("text_files", tmp_path / "t.jsonl")}, tmp_path / "corpus")


def test_what_breaks_while_reading_is_one_line(tmp_path: Path) -> None:
    corpora.write_texts(tmp_path / "t.jsonl", 1500)
    with (tmp_path / "t.jsonl").open("a") as file:
        file.write('{"text": "cut off\n')
    with pytest.raises(UserError, match=r"^data\.sources\.t: cannot be read further: ") as caught:
        make({"t": corpora.source("text_files", tmp_path / "t.jsonl")}, tmp_path / "corpus")
    assert "\n" not in str(caught.value)


def test_a_missing_source_leaves_nothing_behind(tmp_path: Path) -> None:
    sources = {"t": corpora.source("text_files", tmp_path / "missing")}
    with pytest.raises(UserError, match="missing: no such file"):
        make(sources, tmp_path / "deep" / "corpus")
    assert not (tmp_path / "deep").exists()


def test_a_place_that_cannot_be_made_is_one_line(sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl" / "corpus"  # inside of a file
    with pytest.raises(UserError, match=r"^data\.path=.*corpus: cannot make .*texts\.jsonl \("):
        make(sources, path)


def test_a_complete_corpus_is_not_made_again(sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    path = make(sources, tmp_path / "corpus").path
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    make(sources, path)
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


@pytest.mark.parametrize("change", ["content", "variants", "sources"])
def test_a_complete_corpus_of_other_data_is_refused(sources: dict[str, SourceConfig], tmp_path: Path, change: str) -> None:
    path = make(sources, tmp_path / "corpus").path
    if change == "content":
        corpora.write_pictures(tmp_path / "pictures", 41)
    elif change == "variants":
        sources["pictures"] = corpora.source("captioned_folder", tmp_path / "pictures", 3)
    else:
        del sources["pictures"]
    with pytest.raises(UserError, match=r"complete, but was made of other data \(pictures changed\)"):
        make(sources, path)


# Which corpus train gets


@pytest.fixture
def tiny_image(tmp_path: Path) -> Callable[[int], str]:
    """Paths of untrained VQ weights."""
    return lambda seed: corpora.write_image_tokenizer(tmp_path / f"vq_{seed}.safetensors", seed)


def with_tokenizer(config: Config, image: str) -> Config:
    config.__dict__["tokenizer"] = {"text": corpora.TEXT, "image": image}
    return config


def test_the_automatic_corpus_is_made_once_and_opened_after(
    sources: dict[str, SourceConfig], tmp_path: Path, tiny_image: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_tokenizer(corpora.config(sources), tiny_image(0))
    corpus = open_or_prepare(config)
    assert corpus.path == corpus_path(config)
    assert corpus.path.parts[0] == "corpora"
    assert corpus.vocabulary.modality("image").block == 4
    assert corpus.manifest["tokenizers"]["image"]["name"] == config.tokenizer["image"]
    before = corpora.contents(corpus.path)
    monkeypatch.setattr(prepare, "prepare_corpus", None)
    assert open_or_prepare(config).train.fingerprint == corpus.train.fingerprint
    assert corpora.contents(corpus.path) == before
    other = corpus_path(with_tokenizer(corpora.config(sources), tiny_image(1)))
    lighter = {name: SourceConfig(s.reader, s.path, 0.5, s.variants) for name, s in sources.items()}
    assert other != corpus.path == corpus_path(with_tokenizer(corpora.config(lighter), tiny_image(0)))


def test_a_given_path_is_never_made_by_train(
    sources: dict[str, SourceConfig], tmp_path: Path, tiny_image: Callable[[int], str]
) -> None:
    config = with_tokenizer(corpora.config(sources, tmp_path / "mine"), tiny_image(0))
    with pytest.raises(UserError, match=r"data\.path=.*mine: no such corpus; make it with python -m momafuse\.prepare"):
        open_or_prepare(config)
    prepare_corpus(config, tmp_path / "mine")
    open_or_prepare(config)
    with pytest.raises(UserError, match=r"tokenizer\.image=.*vq_1"):
        open_or_prepare(with_tokenizer(corpora.config(sources, tmp_path / "mine"), tiny_image(1)))
    with pytest.raises(UserError, match=r"the corpus holds pictures, texts, but data\.sources names texts"):
        open_or_prepare(with_tokenizer(corpora.config({"texts": sources["texts"]}, tmp_path / "mine"), tiny_image(0)))


def test_threads_and_batches_do_not_change_the_codes(
    sources: dict[str, SourceConfig], tmp_path: Path, tiny_image: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for threads, batch in ((1, 64), (2, 3)):
        monkeypatch.setattr("momafuse.data.items.BATCH", batch)
        path, config = tmp_path / f"corpus_{threads}", with_tokenizer(corpora.config(sources), tiny_image(0))
        made[threads] = corpora.contents(prepare_corpus(config, path, Encoder.load(config.tokenizer, threads)).path)
    assert made[1] == made[2]


# The command and what it prints


def test_the_command_makes_a_corpus_and_then_says_complete(
    sources: dict[str, SourceConfig],
    tmp_path: Path,
    tiny_image: Callable[[int], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        "data=captioned_folder",
        f"data.path={tmp_path / 'corpus'}",
        f"data.sources.pictures.path={sources['pictures'].path}",
        f"data.sources.texts.path={sources['texts'].path}",
        f"tokenizer.image={tiny_image(0)}",
    ]
    main(words)
    first = capsys.readouterr()
    assert first.out.splitlines()[0] == f"{tmp_path / 'corpus'} is made"
    assert "preparing pictures: 40 documents" in first.err
    tree, fit = first.out.splitlines()[1:-2], first.out.splitlines()[-2:]
    assert f"pictures: tokenizer.image={tiny_image(0)} keeps " in fit[0]
    assert "that is little" in fit[1], "of an untrained one"
    assert "docs/image_tokenizer.md" in fit[1]
    assert (tmp_path / "corpus" / "fit_pictures_image.png").read_bytes().startswith(b"\x89PNG")
    main(words)
    second = capsys.readouterr()
    assert second.out.splitlines()[0] == f"{tmp_path / 'corpus'} is complete"
    assert second.out.splitlines()[1:] == tree
    assert second.err == ""
    with pytest.raises(SystemExit) as stopped:
        main([*words, f"data.sources.texts.path={tmp_path / 'gone'}", f"data.path={tmp_path / 'other'}"])
    assert stopped.value.code == 2
    complaint = capsys.readouterr()
    assert complaint.out == ""
    assert complaint.err.startswith("momafuse: error: data.sources.texts.path=")
    assert complaint.err.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_the_tree_shows_what_the_manifest_holds(sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    manifest = make(sources, tmp_path / "corpus").manifest
    console = Console(file=io.StringIO(), width=200)
    console.print(corpus_tree(manifest))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    train = manifest["splits"]["train"]["sources"]
    for source in train:
        assert f"{source['name']}: {source['documents']} documents" in shown
        pictures = f" (in {source['pictures']:,} items)" if source["pictures"] else ""
        assert f"{source['text_tokens']:,} text + {source['image_tokens']:,} image{pictures} tokens" in shown
    for made_with in manifest["tokenizers"].values():
        assert made_with["fingerprint"][:8] in shown


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: now[0])
    now = [0.0]
    monkeypatch.setattr("momafuse.data.progress.time", clock)
    console = Console(file=io.StringIO(), force_terminal=False)
    with Progress(console) as progress:
        progress.source("mine", 30, 10)
        for now[0] in (1.0, 11.0, 12.0):
            progress.advance(5)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines == ["preparing mine: 30 documents, going on after 10", "preparing mine: 20 of 30, 11 s left"]


# The shipped text tokenizer


def test_the_shipped_bpe_is_what_training_gives(tmp_path: Path) -> None:
    sources = {name: SourceConfig(name) for name in ("starter_pictures", "starter_glosses")}
    again = train_text_tokenizer(BPEConfig("bpe", "starter_bpe_v1", 4088, 0.9999), sources, tmp_path)
    assert again.fingerprint == TextTokenizer.load("starter_bpe_v1").fingerprint
    assert TextTokenizer.load(str(tmp_path / "starter_bpe_v1.model")).pieces == 4088
