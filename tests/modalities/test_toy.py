"""A third modality that a plugin adds, from its files to the end of a run: corpus, budget, training, evaluation, describe."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from momafuse.config.compose import compose
from momafuse.data.corpus import Corpus
from momafuse.data.prepare import prepare_corpus
from momafuse.describe import main as describe
from momafuse.evaluate import main as evaluate
from momafuse.train import main as train
from tests.data.corpora import contents, write_image_tokenizer, write_pictures, write_texts

BATCH = ["trainer.micro_batch=4", "trainer.global_batch=4", "trainer.max_steps=2", "trainer.eval_sequences=4"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a run on pictures, melodies and text."""
    root = tmp_path_factory.mktemp("melodies")
    folder = root / "tunes"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(300):
        notes = rng.integers(40, 80, rng.integers(5, 40))
        (folder / f"{n:03d}.notes").write_text("\n".join([f"tune number {n}", *map(str, notes)]))
    write_pictures(root / "pictures", 700)
    write_texts(root / "texts.jsonl", 300)

    def source(reader: str, path: str, variants: int = 1) -> str:
        return f"{{reader: {reader}, path: {root / path}, weight: 1.0, variants: {variants}}}"

    sources = [
        f"+data.sources.tunes={source('melodies', 'tunes', 2)}",
        f"+data.sources.pictures={source('captioned_folder', 'pictures')}",
        f"+data.sources.texts={source('text_files', 'texts.jsonl')}",
    ]
    return [
        "size=micro", "plugins=[tests.modalities.melodies]", "+tokenizer.melody=notes", "+objective.weight.melody=1.0",
        f"tokenizer.image={write_image_tokenizer(root / 'vq.safetensors')}", *sources, "~data.sources.starter_pictures",
        "~data.sources.starter_glosses", f"data.path={root / 'corpus'}", f"run.root={root / 'runs'}", "data.sequence_length=64",
        "data.image_share=0.0625", "+data.share.melody=0.25", "logger.wandb=disabled", *BATCH,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(words: list[str]) -> Corpus:
    config = compose(["+experiment=mot", *words]).config
    assert config.data.path is not None
    return prepare_corpus(config, Path(config.data.path))


def test_the_corpus_on_disk_is_what_a_plain_loop_makes(corpus: Corpus, words: list[str]) -> None:
    v = corpus.vocabulary
    assert v.names == ("text", "image", "melody")
    melody, text = v.modality("melody"), v.modality("text")
    assert melody.frame == (5, 6)
    split, counts = corpus.train, Counter[str]()
    tunes = next(s for s in split.sources if s.name == "tunes")
    for d in range(split.documents):
        ids = split.tokens[split.offsets[d] : split.offsets[d + 1]].astype(int).tolist()
        (rows, kinds), mine = split.items_of(d), tunes.first <= d < tunes.first + tunes.documents
        for (first, count), m in zip(rows, kinds, strict=True):
            frame = v.modalities[m].frame
            assert (ids[first - 1], ids[first + count]) == frame
            assert set(v.modality_of_ids()[ids[first : first + count]]) == {m}
        counts.update(v.names[m] for m in v.modality_of_ids()[ids])
        before, after = split.before[d], split.before[d + 1]  # type: ignore[index]
        assert (after - before)[0].tolist() == [0, *(sum(kinds == m) for m in (1, 2))]
        assert (after - before)[1].sum() == len(ids)
        if mine:
            assert kinds.tolist() == [2]
            assert ids[0] == v.specials.bos
            assert (ids[1] == melody.begin) or text.first <= ids[1]
    assert [sum(s.tokens[m] for s in split.sources) for m in range(3)] == [counts[name] for name in v.names]
    firsts = split.tokens[split.offsets[tunes.first : tunes.first + tunes.documents] + 1]
    assert 0.3 < float((firsts == melody.begin).mean()) < 0.7  # half of the pairs in each order


def test_a_second_preparation_gives_the_same_bytes(corpus: Corpus, words: list[str], tmp_path: Path) -> None:
    config = compose(["+experiment=mot", *words]).config
    again = prepare_corpus(config, tmp_path / "again")
    assert contents(again.path) == contents(corpus.path)


@pytest.mark.parametrize("experiment", ["mot", "moma_4t4i"])
def test_a_run_trains_ends_and_is_evaluated(corpus: Corpus, words: list[str], experiment: str) -> None:
    more = [] if experiment == "mot" else ["+model.experts.melody=2"]
    train([f"+experiment={experiment}", f"run.name={experiment}", *more, *words])
    config = compose([f"+experiment={experiment}", *more, *words]).config
    folder = Path(config.run.root) / experiment
    report = json.loads((folder / "report.json").read_text())
    held_out = {name: report[name] for name in report if "melody" in name}
    assert held_out, sorted(report)
    for figure in ("reconstruction.png", "reconstruction_melody.png"):
        assert (folder / "samples" / figure).stat().st_size > 1000
    evaluate([f"run={folder}", "routing=training", "logger.wandb=disabled"])
    results = json.loads(next((folder / "evaluation").glob("*.json")).read_text())
    assert any("melody_given_text" in str(key) for key in json.dumps(results).split('"'))


def test_describe_counts_every_modality(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    describe(["+experiment=mot", *words])
    assert "melody" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tokenizer.melody=other", r"tokenizer\.melody=other: there is one, notes"),
        ("+tokenizer.smell=x", r"tokenizer\.smell=x: no such modality; there are text, image, speech, melody"),
        ("data.share.melody=1.5", r"data\.share\.melody=1\.5: must lie between 0 and 1"),
        ("+data.share.smell=0.2", r"data\.share\.smell=0\.2: no such modality"),
        ("data.share.melody=0.9", r"data\.share\.melody=0\.9: of 64 tokens, only 57 are left; the largest valid share is"),
        ("+objective.weight.smell=1.0", r"objective\.weight\.smell=1\.0: no such modality"),
    ],
)
def test_what_a_user_can_get_wrong(
    corpus: Corpus, words: list[str], word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = word.lstrip("+").partition("=")[0]
    kept = [w for w in words if w.lstrip("+").partition("=")[0] != key or word.startswith("+")]
    more = word if word.startswith("+") else f"+{word}"
    weight = ["+objective.weight.smell=1.0"] if word.startswith("+tokenizer") else []
    with pytest.raises(SystemExit):
        train(["+experiment=mot", *kept, more, *weight, "run.name=wrong"])
    assert re.search(message, capsys.readouterr().err)
