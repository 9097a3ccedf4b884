"""A corpus is the same whatever processes and shares made it, wherever they were killed; what is left out or wrong is told."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets.exceptions import DatasetsError
from PIL import Image

from momafuse import preemption
from momafuse.config.prepare import Preparation
from momafuse.config.schema import SourceConfig
from momafuse.data import chunks, workers
from momafuse.data.corpus import Corpus, unfinished
from momafuse.data.making import ShareDone
from momafuse.data.prepare import prepare_corpus
from momafuse.data.sources import Source, Stream, register, registry
from momafuse.errors import UserError
from momafuse.files import locked
from momafuse.prepare import main
from tests.data import corpora

REPO = Path(__file__).resolve().parents[2]


def make(sources: dict[str, SourceConfig], path: Path, how: Preparation | None = None, **changes: Any) -> Corpus:
    config = corpora.config(sources, path, **changes)
    return prepare_corpus(config, path, corpora.encoder(), how or Preparation(None, None))


# Processes and shares

COMMAND = """
import sys
from momafuse.data import chunks, workers
chunks.DOCUMENTS, workers.ALONE = 2, -1.0
if __name__ == "__main__":
    from momafuse.prepare import main
    main(sys.argv[1:])
"""


@pytest.fixture
def command(sources: dict[str, SourceConfig], tmp_path: Path) -> list[str]:
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    image = corpora.write_image_tokenizer(tmp_path / "vq.safetensors")
    return [
        sys.executable,
        str(script),
        "data=captioned_folder",
        f"data.sources.pictures.path={sources['pictures'].path}",
        f"data.sources.texts.path={sources['texts'].path}",
        "data.sources.pictures.variants=2",
        f"tokenizer.image={image}",
        "prepare.workers=2",
    ]


def run(command: list[str], *words: str) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *words], cwd=REPO, env=env, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def whole(path: Path) -> dict[str, bytes]:
    return {name: data for name, data in corpora.contents(path).items() if not name.startswith("fit_")}


@pytest.mark.slow
def test_killed_ten_times_at_random_it_ends_with_the_same_bytes(command: list[str], tmp_path: Path) -> None:
    assert run(command, f"data.path={tmp_path / 'undisturbed'}").wait() == 0
    draw, path = random.Random(), tmp_path / "disturbed"
    for _ in range(10):
        process = run(command, f"data.path={path}")
        before = len(list(unfinished(path).glob("part_*.npz")))
        while len(list(unfinished(path).glob("part_*.npz"))) == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.03))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not path.exists()
    assert run(command, f"data.path={path}").wait() == 0
    assert whole(path) == whole(tmp_path / "undisturbed")
    assert not unfinished(path).exists()


@pytest.mark.slow
def test_workers_end_with_their_parent(command: list[str], tmp_path: Path) -> None:
    process = run(command, f"data.path={tmp_path / 'corpus'}")
    children: list[int] = []
    while not children and process.poll() is None:
        time.sleep(0.05)
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = [int(pid) for pid in listed.read_text().split()] if listed.exists() else []
    time.sleep(3.0)  # so that they listen
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_shares_make_the_corpus_that_one_run_makes(
    sources: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "DOCUMENTS", 7)
    expected = corpora.contents(make(sources, tmp_path / "whole").path)
    path = tmp_path / "shared"
    for share, left in ((2, "1/3, 3/3"), (1, "3/3")):
        message = rf"^prepare\.shard={share}/3 is done; the corpus is made when {left} are done, too$"
        with pytest.raises(ShareDone, match=message):
            make(sources, path, Preparation(None, f"{share}/3"))
        assert not path.exists()
    make(sources, path, Preparation(None, "3/3"))
    assert corpora.contents(path) == expected


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_what_is_no_share(sources: dict[str, SourceConfig], tmp_path: Path, shard: str) -> None:
    with pytest.raises(UserError, match=rf"prepare\.shard={shard}: no such share; write e\.g\. prepare\.shard=3/16"):
        make(sources, tmp_path / "corpus", Preparation(None, shard))
    assert not unfinished(tmp_path / "corpus").exists()


def test_a_part_that_is_not_whole_is_made_again(
    sources: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "DOCUMENTS", 7)
    expected = corpora.contents(make(sources, tmp_path / "whole").path)
    path = tmp_path / "corpus"
    with pytest.raises(ShareDone, match="is done"):
        make(sources, path, Preparation(None, "1/2"))
    for part in sorted(unfinished(path).glob("part_*"))[1:3]:
        part.write_bytes(part.read_bytes()[:100])
    assert corpora.contents(make(sources, path).path) == expected


@pytest.mark.parametrize("order", [(1, 2, 3), (2, 3, 1), (3, 1, 2)])
def test_rejects_are_judged_over_all_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]) -> None:
    monkeypatch.setattr(chunks, "DOCUMENTS", 10)
    corpora.write_pictures(tmp_path / "p", 60, broken=(11, 12))  # both in one part
    source = {"p": corpora.source("captioned_folder", tmp_path / "p")}
    for rejects in (0.05, 0.02):
        path = tmp_path / f"corpus_{rejects}"
        for share in order[:-1]:
            with pytest.raises(ShareDone):
                make(source, path, Preparation(None, f"{share}/3"), rejects=rejects)
        if rejects == 0.05:
            assert make(source, path, Preparation(None, f"{order[-1]}/3"), rejects=rejects).manifest["rejects"] == 2
        else:
            with pytest.raises(UserError, match="2 of 60 documents cannot be used"):
                make(source, path, Preparation(None, f"{order[-1]}/3"), rejects=rejects)


def test_a_share_that_is_done_is_no_error(
    sources: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chunks, "DOCUMENTS", 7)
    image = corpora.write_image_tokenizer(tmp_path / "vq.safetensors")
    words = ["data=captioned_folder", f"data.sources.pictures.path={sources['pictures'].path}", f"tokenizer.image={image}"]
    main([*words, f"data.sources.texts.path={sources['texts'].path}", f"data.path={tmp_path / 'c'}", "prepare.shard=1/2"])
    assert "prepare.shard=1/2 is done; the corpus is made when 2/2 are done, too" in capsys.readouterr().out


def test_who_waited_for_other_data_is_told(sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    """Two at once with one path: the second does not take the first one's corpus for its own."""
    path = tmp_path / "corpus"
    lock = tmp_path / ".corpus.1-1.lock"
    told: list[str] = []

    def second() -> None:
        try:
            make({"texts": sources["texts"]}, path)
        except UserError as error:
            told.append(str(error))

    waiting = threading.Thread(target=second)
    with locked(lock):
        waiting.start()
        time.sleep(0.5)
        config = corpora.config(sources, tmp_path / "other")
        prepare_corpus(config, tmp_path / "other", corpora.encoder()).path.rename(path)
    waiting.join(30)
    assert len(told) == 1
    assert "was made of other data (pictures changed)" in told[0]


def test_asked_to_leave_it_does_while_it_only_reads(
    sources: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "DOCUMENTS", 7)
    monkeypatch.setattr(preemption, "_received", [signal.SIGTERM])
    with pytest.raises(preemption.Preempted):
        make(sources, tmp_path / "corpus", Preparation(None, "9/9"))  # has no part of it


# What is left out


def test_filters_leave_out_and_count(tmp_path: Path) -> None:
    rows = ["file_name,text"]
    for name, size in {"good": (40, 30), "small": (40, 20), "long": (150, 30), "bad": (40, 40)}.items():
        Image.new("RGB", size, (9, len(name), 99)).save(tmp_path / f"{name}.png")
        rows += [f"{name}.png,{name} one", f"{name}.png,{name}"]
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    plain = corpora.source("captioned_folder", tmp_path)
    config = replace(plain, least_side=25, most_aspect=4.0, least_text=5, held_out=0.5)
    corpora.write_texts(tmp_path / "t" / "a.jsonl", 30)
    both = {"p": config, "t": corpora.source("text_files", tmp_path / "t")}
    corpus = make(both, tmp_path / "corpus", rejects=0.5)
    assert corpus.manifest["sources"]["p"]["left_out"] == {"least_side": 2, "least_text": 3, "most_aspect": 1}
    assert [s.documents for s in (*corpus.train.sources, *corpus.validation.sources) if s.name == "p"] in ([0, 1], [1, 0])
    listed = [json.loads(line) for line in (corpus.path / "rejects.jsonl").read_text().splitlines()]
    assert [(row["key"], row["reason"]) for row in listed] == [("bad.png", "no picture format")]


def test_a_source_gives_no_more_than_its_limit(sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    sources["texts"] = replace(sources["texts"], limit=25)
    corpus = make(sources, tmp_path / "corpus")
    assert sum(s.documents for s in (*corpus.train.sources, *corpus.validation.sources) if s.name == "texts") == 25
    assert len(corpus.train.tokens) < len(
        make({**sources, "texts": replace(sources["texts"], limit=None)}, tmp_path / "b").train.tokens
    )


def test_a_folder_without_texts_is_no_mistake(sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    pictures = sources["pictures"]
    loose = corpora.source("loose_texts", Path(pictures.path or ""))
    corpus = make({"pictures": pictures, "loose": loose, "texts": sources["texts"]}, tmp_path / "corpus")
    assert list(corpus.manifest["sources"]) == ["pictures", "texts"]
    assert list(corpus.manifest["empty"]) == ["loose"]
    make({"pictures": pictures, "loose": loose, "texts": sources["texts"]}, tmp_path / "corpus")  # is complete


def test_a_share_that_is_far_off_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpora.write_texts(tmp_path / "a.jsonl", 4)
    make({"t": corpora.source("text_files", tmp_path)}, tmp_path / "corpus")
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "held out" in line]
    assert told.startswith("data.sources.t: ")
    assert "of its tokens are held out, 2.00% were asked; set data.sources.t.held_out" in told


def test_a_text_that_is_no_utf8_is_named_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(60):
        (folder / f"{n:02d}.txt").write_text(f"text {n}")
    (folder / "30.txt").write_bytes("caf\u00e9".encode("latin-1"))
    source = {"t": corpora.source("text_files", folder)}
    with pytest.raises(UserError, match=r"1 of 60 .*the first is 30\.txt \(no UTF-8 \(byte 0xe9 at 3\); convert it"):
        make(source, tmp_path / "corpus")
    corpus = make(source, tmp_path / "corpus", rejects=0.02)
    assert corpus.train.documents + corpus.validation.documents == 59


# Sources that fail


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """A reader `failing` of 30 texts, which raises each of these once before document 10 and 20."""
    errors: list[Exception] = []

    def rows() -> Iterator[Any]:
        for n in range(30):
            if errors and n in (10, 20):
                raise errors.pop(0)
            yield f"{n}", "validation" if n < 3 else "train", [{"text": f"text {n}"}]

    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))
    register("failing")(lambda config: Source(Stream(rows), "1"))
    monkeypatch.setattr(chunks, "PAUSES", (0.0, 0.0))
    return errors


def test_a_source_that_fails_for_a_while_is_tried_again(
    failing: list[Exception], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"t": SourceConfig("failing")}
    undisturbed = corpora.contents(make(source, tmp_path / "a").path)
    failing += [ConnectionError("gone"), TimeoutError("slow")]
    assert corpora.contents(make(source, tmp_path / "b").path) == undisturbed
    told = [line for line in capsys.readouterr().err.splitlines() if "again in" in line]
    assert told[0] == "data.sources.t: gone; again in 0 s, from document 11 on"
    assert told[1] == "data.sources.t: slow; again in 0 s, from document 11 on"


@pytest.mark.parametrize(
    ("error", "count", "message"),
    [
        (ConnectionError("gone"), 3, r"cannot be read further: gone \(tried 3 times, at document 11\)"),
        (PermissionError("not yours"), 1, r"cannot be read further: not yours$"),
        (ValueError("no row"), 1, r"cannot be read further: no row$"),
        (DatasetsError("no set"), 1, r"cannot be read further: no set$"),
    ],
)
def test_one_that_fails_for_good_is_reported(
    failing: list[Exception], tmp_path: Path, error: Exception, count: int, message: str
) -> None:
    failing += [error] * count
    with pytest.raises(UserError, match=rf"^data\.sources\.t: {message}"):
        make({"t": SourceConfig("failing")}, tmp_path / "corpus")


def test_a_worker_that_was_killed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = workers.Future[Any]()
    broken.set_exception(workers.BrokenProcessPool("x"))
    with pytest.raises(UserError, match=r"^prepare\.workers: a worker was killed"):
        workers.result(broken)

    def refuse(*_: Any) -> Any:
        raise workers.BrokenProcessPool("x")

    monkeypatch.setattr(workers, "ALONE", -1.0)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", lambda *_: SimpleNamespace(submit=refuse, shutdown=refuse))
    several = workers.Workers(corpora.encoder(), {}, [], 2)
    with pytest.raises(UserError, match=r"^prepare\.workers: a worker was killed"):
        several.submit(workers.Task(tmp_path / "p.npz", [], 1, {}, False))


def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "_encoder", [UserError("tokenizer.image=x: no such file")])
    with pytest.raises(UserError, match=r"^tokenizer\.image=x: no such file"):
        workers._work(workers.Task(tmp_path / "p.npz", [], 1, {}, False))


def test_pictures_keep_their_place_in_a_document(tmp_path: Path) -> None:
    """Codes of the k-th picture of a page stand k-th, between the texts that stand around it there."""
    folder, codec = tmp_path / "pages", corpora.encoder().codecs["image"]
    folder.mkdir()
    for n in range(4):
        Image.new("RGB", (80, 80), (60 * n, 255 - 60 * n, 30 * n)).save(folder / f"{n}.png")
    order = [[2, 0, 3], [1], [3, 3, 0, 2]]
    for page, pictures in enumerate(order):
        shown = "".join(f"<p>before {n}</p><img src='{n}.png'>" for n in pictures)
        (folder / f"{page}.html").write_text(f"<html><body>{shown}<p>end {page}</p></body></html>")
    corpus = make({"p": corpora.source("html_pages", folder)}, tmp_path / "corpus")
    text, image = (corpus.vocabulary.modality(name).first for name in ("text", "image"))
    codes = [codec.encode([codec.read((folder / f"{n}.png").read_bytes())])[0].tolist() for n in range(4)]
    found = []
    for split in (corpus.train, corpus.validation):
        for d in range(split.documents):
            ids = np.asarray(split.tokens[split.offsets[d] : split.offsets[d + 1]]).astype(np.int64)
            numbers, last, said = [], 1, []
            for first, count in split.items_of(d)[0].tolist():
                numbers.append(codes.index((ids[first : first + count] - image).tolist()))
                said.append(corpora.encoder().text.decode((ids[last : first - 1] - text).tolist()))
                last = first + count + 1
            assert said == [f"before {n}" for n in numbers]
            found.append(numbers)
    assert sorted(found) == sorted(order)


def test_words_of_any_unicode_come_back(tmp_path: Path) -> None:
    texts = ["\u0000 \ufffe", "e\u0301 \u00e9", "\U0001f469\u200d\U0001f680", "\u202eabc", "a\r\nb\u2028c", "\u2581 \u2581"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "last \ud800"]))
    corpus = make({"t": replace(corpora.source("text_files", tmp_path), held_out=0.5)}, tmp_path / "corpus")
    first = corpus.vocabulary.modality("text").first
    found = []
    for split in (corpus.train, corpus.validation):
        for a, b in zip(split.offsets[:-1], split.offsets[1:], strict=True):
            found.append(corpora.encoder().text.decode((np.asarray(split.tokens[a + 1 : b - 1]) - first).tolist()))
    assert sorted(found) == sorted([*texts, "last \ufffd"])
