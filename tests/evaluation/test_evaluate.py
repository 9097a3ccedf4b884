"""python -m momafuse.evaluate on small runs: which targets count for what, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from momafuse.config.compose import compose, compose_jobs, load_config
from momafuse.config.evaluate import EvaluateConfig
from momafuse.data.corpus import Corpus
from momafuse.errors import UserError
from momafuse.evaluation.held_out import evaluate_run, held_out
from momafuse.evaluation.report import save, table
from momafuse.evaluation.tasks import labels, places
from momafuse.training.loop import train
from tests.training.conftest import run, small_corpus  # noqa: F401 -- fixtures


def evaluated(run_folder: Path, *more: str):
    words = [f"run={run_folder}", "sequences=8", "device=cpu", *more]
    return evaluate_run(compose_jobs(words, "evaluate", EvaluateConfig)[0].config)


def test_both_routings_of_a_run_with_auxiliary_routers(run, run_root):  # noqa: F811
    source = run("trainer.max_steps=1")
    with pytest.raises(UserError, match=r"routing=both: .*experiment=aux_routers model_from="):
        evaluated(source)
    words = ["trainer.max_steps=1", "trainer.global_batch=4", "trainer.micro_batch=4", "trainer.eval_sequences=8"]
    common = ["logger.wandb=disabled", "trainer.precision=fp32", "trainer.dry_step=false", "run.name=aux"]
    train(compose(["+experiment=aux_routers", f"model_from={source}", f"run.root={run_root}", *words, *common]), say=print)
    results = evaluated(run_root / "aux")
    report = json.loads((run_root / "aux" / "report.json").read_text())
    assert results.losses["causal"]["text"][0] == pytest.approx(report["eval/loss_text"], abs=1e-6)
    assert results.losses["training"]["image"][0] == pytest.approx(
        evaluated(source, "routing=training").losses["training"]["image"][0]
    )
    files = [Path(f) for f in save(results)]
    assert files[0] == run_root / "aux/evaluation/step_00000001-both.json"
    assert set(json.loads(files[0].read_text())["routing"]) == {"training", "causal"}
    assert "| caption_given_picture |" in files[1].read_text() == table(results)


def test_a_causal_model_needs_no_auxiliary_routers(run):  # noqa: F811
    folder = run("trainer.max_steps=1", experiment="dense")
    results = evaluated(folder)
    assert list(results.losses) == ["causal"]
    report = json.loads((folder / "report.json").read_text())
    assert results.losses["causal"]["all"][0] == pytest.approx(report["eval/loss"], abs=1e-6)


def test_labels_are_those_of_each_document(run, small_corpus):  # noqa: F811
    config = load_config(run("trainer.max_steps=1", experiment="dense") / "config.yaml")
    corpus = Corpus.open(small_corpus)
    v, split = corpus.vocabulary, corpus.validation
    loader, plan = held_out(config, corpus)
    batch = loader.batch(range(4))
    documents, place = places(split, plan, range(4))
    tokens = batch.tokens.flatten().numpy()
    assert np.array_equal(split.tokens[np.asarray(split.offsets)[documents] + place], tokens)
    targets = batch.targets.flatten().numpy()
    found = dict(labels(split, v, documents, place, targets))
    captions, pictures = set(), set()
    for t in range(len(tokens)):
        document = np.asarray(split.tokens[split.offsets[documents[t]] : split.offsets[documents[t] + 1]])
        if targets[t] < 0 or v.specials.begin_image not in document:
            continue
        begin, end = (int(np.flatnonzero(document == i)[0]) for i in (v.specials.begin_image, v.specials.end_image))
        if begin == 1 and place[t] + 1 > end and targets[t] != v.specials.eos:
            captions.add(t)
        if begin > 1 and begin < place[t] + 1 < end:
            pictures.add(t)
    assert captions
    assert pictures
    assert set(np.flatnonzero(found["caption_given_picture"])) == captions
    assert set(np.flatnonzero(found["picture_given_caption"])) == pictures


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^run=.*no run there"):
        evaluated(tmp_path)
