"""`prepare show=plan|sample`: what is listed agrees with what the plan reads, and the page with what the loader gives."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from html import unescape
from html.parser import HTMLParser

import pytest

from momafuse.config.compose import compose
from momafuse.data.corpus import Corpus
from momafuse.data.loader import Loader
from momafuse.data.stages import StagedPlan, Use
from momafuse.prepare import main
from momafuse.reports.mixture import passed_often, stage_lines
from momafuse.reports.sequences import OF_STAGE, chosen
from momafuse.tokens.text import TextTokenizer
from momafuse.training.schedule import stage_begins
from momafuse.training.setup import training_plan
from tests.data import corpora
from tests.data.test_stages import V
from tests.data.toy import make_split

BUDGET = (60, 4)
STAGES = "data.stages=[{from: 0.5, weights: {texts: 0.5, more: 2}}]"
ANSWERS = "objective.answers_only=true"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a command on conversations with pictures, and two sources without; their corpus is made, and the sources are gone."""
    top = tmp_path_factory.mktemp("show")
    pictures = corpora.write_conversations(top / "chats", 60)
    texts = corpora.write_conversations(top / "texts", 200, pictures=False)
    corpora.write_texts(top / "more.jsonl", 90)
    words = [
        "data=conversations",
        f"data.path={top / 'corpus'}",
        f"data.sources.pictures.path={pictures}",
        f"data.sources.texts.path={texts}",
        *(f"++data.sources.more.{w}" for w in ("reader=text_files", f"path={top / 'more.jsonl'}", "weight=1", "variants=1")),
        f"tokenizer.image={corpora.write_image_tokenizer(top / 'vq.safetensors')}",
        "data.sequence_length=64",
        "data.image_share=0.0625",
        "trainer.max_steps=10",
        "optim.warmup_steps=1",
        "data.window=16",
    ]
    main([*words, "show=none"])
    shutil.rmtree(pictures)
    return words


def made(words: list[str]) -> tuple[Corpus, StagedPlan, int]:
    config = compose(words).config
    corpus = Corpus.open(str(config.data.path))
    plan = training_plan(config, corpus, BUDGET, stage_begins(config))
    return corpus, plan, 10 * config.trainer.global_batch


def test_the_plan_lists_what_the_sequences_hold(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*words, STAGES]
    main([*words, "show=plan"])
    out = capsys.readouterr().out
    corpus, plan, sequences = made(words)
    shown = {file.name: file.stat().st_mtime_ns for file in corpus.path.iterdir()}
    main([*words, "show=plan"])
    assert {file.name: file.stat().st_mtime_ns for file in corpus.path.iterdir()} == shown
    assert "planned: 10 steps of 16 sequences of 64 tokens (60 text + 4 image), 10,240 tokens in all" in out
    for begin, end, step in ((0, 80, "1"), (80, 160, "6")):
        tokens = Counter[str]()
        for piece in (p for s in range(begin, end) for p in plan.pieces(s)):
            name = next(s.name for s in corpus.train.sources if s.first <= piece.document < s.first + s.documents)
            tokens[name] += piece.stop - piece.start
        uses = {use.source: use for use in plan.uses(sequences)[begin // 80]}
        for name, count in tokens.items():
            assert int(uses[name].tokens.sum()) == pytest.approx(count, abs=64)  # the last window goes on, or is permuted
            share = f"from step {step} on: {uses[name].realised:.2%} of the {uses[name].of} budget"
            assert share in out
    assert uses["more"].requested == 0.8
    for source in corpus.train.sources:
        passes = sum(use.passes for several in plan.uses(sequences) for use in several if use.source == source.name)
        assert f"{source.name}: {source.documents:,} documents" in out
        assert f"passed {passes:.2f} times" in out
    assert "passed 2.86 times" in out


class Pieces(HTMLParser):
    """The words of every piece as they are read, and which of them are no targets."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[str] = []
        self.text: list[str] = []
        self.learnt: list[str] = []
        self._kind: str | None = None
        self._label = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = dict(attrs).get("class") or ""
        if tag == "div" and kind == "label":
            self.text.append("")
            self.learnt.append("")
            self.labels.append("")
            self._label = True
        if tag == "span" and self.text:
            self._kind = kind

    def handle_endtag(self, tag: str) -> None:
        self._label &= tag != "div"
        self._kind = None if tag == "span" else self._kind

    def handle_data(self, data: str) -> None:
        if self._label:
            self.labels[-1] += data
        elif self._kind is not None and "special" not in self._kind:
            self.text[-1] += data
            self.learnt[-1] += data if "masked" not in self._kind else ""


def test_the_page_shows_what_the_loader_gives(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*words, STAGES, ANSWERS]
    main([*words, "show=sample"])
    corpus, plan, sequences = made(words)
    assert capsys.readouterr().out.endswith(f"{corpus.path / 'sample.html'}\n")
    page = (corpus.path / "sample.html").read_text()
    assert 'src="http' not in page
    assert "<script" not in page
    numbers = chosen(plan, sequences)
    assert len(numbers) == 2 * OF_STAGE
    assert (numbers[0], numbers[OF_STAGE - 1], numbers[OF_STAGE], numbers[-1]) == (0, 79, 80, 159)
    assert re.findall(r"<h2>Sequence (\d+), of step (\d+), in stage (\d)</h2>", page) == [
        (str(n), str(n // 16 + 1), str(n // 80 + 1)) for n in numbers
    ]
    assert page.count("<figure") == page.count('<img src="data:image/png') == len(numbers)  # four codes each
    reader = Pieces()
    reader.feed(page)
    loader = Loader(corpus.train, corpus.vocabulary, plan, BUDGET, answers_only=True)
    text, first = TextTokenizer.load(corpora.TEXT), corpus.vocabulary.modality("text").first
    pieces = [(n, piece) for n in numbers for piece in plan.pieces(n)]
    assert len(reader.text) == len(pieces)
    at = dict.fromkeys(numbers, 0)
    for shown, learnt, label, (n, piece) in zip(reader.text, reader.learnt, reader.labels, pieces, strict=True):
        batch, begin = loader.batch([n]), at[n]
        at[n] = end = begin + piece.stop - piece.start
        ids = batch.tokens[0, begin:end].tolist()
        targets = [False, *(batch.targets[0, begin : end - 1] >= 0).tolist()]
        assert shown == text.decode(i - first for i in ids if i >= first)
        assert learnt == text.decode(i - first for i, target in zip(ids, targets, strict=True) if i >= first and target)
        source = next(s for s in corpus.train.sources if s.first <= piece.document < s.first + s.documents)
        assert label.startswith(f"{source.name} document {piece.document - source.first + 1:,} of {source.documents:,}, ")
    assert "question" not in "".join(reader.learnt)
    assert "answer" in "".join(reader.learnt)
    assert unescape(page).count("no target</figcaption>") > 0  # pictures that are given


def test_what_is_passed_often_is_said() -> None:
    def use(source: str, passes: float) -> Use:
        return Use(source, "text", 1.0, 1.0, V.modality_of_ids()[:2].astype(int), passes)

    (line,) = passed_often([[use("a", 2.5), use("b", 4.0)], [use("a", 1.6)]])
    assert line.startswith("a is passed 4.1 times: up to 4 passes were found nearly as good as fresh data (arXiv 2305.16264); ")


def test_a_run_says_the_shares_of_its_later_stages() -> None:
    split = make_split({"a": [["image", 3]] * 40, "text": [[9]] * 100, "prose": [[9]] * 100}, V)
    base = {"a": 1.0, "text": 1.0, "prose": 1.0}
    plan = StagedPlan(split, (40, 8), [base, base | {"prose": 3.0}], [12], 0, 16)
    assert stage_lines(plan, 10) == []
    assert stage_lines(plan, 20) == [
        "from sequence 12 on: a 100.00% of the image budget, text 25.00% of the text budget, prose 75.00% of the text budget"
    ]
