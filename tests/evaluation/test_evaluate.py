"""python -m momafuse.evaluate on small runs: which targets count for what, what is written, what is refused."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from momafuse.config.compose import compose, compose_jobs, load_config
from momafuse.config.evaluate import EvaluateConfig
from momafuse.data.corpus import Corpus
from momafuse.errors import UserError
from momafuse.evaluation.held_out import Results, _nll, evaluate_run
from momafuse.evaluation.report import record, save, table
from momafuse.evaluation.sequences import PADDING, held_out_sequences
from momafuse.evaluation.tasks import labels, places
from momafuse.training.pretraining import train
from momafuse.training.setup import build_model
from momafuse.world import World
from tests.reports.wandb_file import records
from tests.training.conftest import run, small_corpus  # noqa: F401 -- fixtures

WORLD = World(0, 1, torch.device("cpu"), None, None)


def config_of(run_folder: Path, *more: str) -> EvaluateConfig:
    return compose_jobs([f"run={run_folder}", "device=cpu", *more], "evaluate", EvaluateConfig)[0].config


def evaluated(run_folder: Path, *more: str) -> Results:
    return evaluate_run(config_of(run_folder, "sequences=8", *more))


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
    assert "| text_given_image |" in files[1].read_text() == table(results)


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
    held_out = held_out_sequences(config, corpus)
    batch = held_out.loader.batch(range(4))
    documents, place = places(split, held_out.plan, range(4))
    tokens = batch.tokens.flatten().numpy()
    assert np.array_equal(split.tokens[np.asarray(split.offsets)[documents] + place], tokens)
    targets = batch.targets.flatten().numpy()
    found = dict(labels(split, v, documents, place, targets))
    captions, pictures = set(), set()
    for t in range(len(tokens)):
        document = np.asarray(split.tokens[split.offsets[documents[t]] : split.offsets[documents[t] + 1]])
        if targets[t] < 0 or v.modality("image").begin not in document:
            continue
        begin, end = (int(np.flatnonzero(document == i)[0]) for i in (v.modality("image").begin, v.modality("image").end))
        if begin == 1 and place[t] + 1 > end and targets[t] != v.specials.eos:
            captions.add(t)
        if begin > 1 and begin < place[t] + 1 < end:
            pictures.add(t)
    assert captions
    assert pictures
    assert set(np.flatnonzero(found["text_given_image"])) == captions
    assert set(np.flatnonzero(found["image_given_text"])) == pictures


def test_data_takes_a_path_and_no_file(tmp_path):
    with pytest.raises(UserError, match=r"^data=\.\.\.: takes no file here; there is data\.path=\.\.\.$"):
        evaluated(tmp_path, "data=coco")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^run=.*no complete checkpoint there"):
        evaluated(tmp_path)


def test_two_checkpoints_of_a_run_are_two_rows_of_one_wandb_run(run):  # noqa: F811
    folder = run("trainer.max_steps=2", "checkpoint.every=1", experiment="dense")
    report = json.loads((folder / "report.json").read_text())
    found = {}
    for name in ("checkpoints/step_00000002", "checkpoints/step_00000001"):  # in any order
        results = evaluated(folder / name)
        assert results.folder == folder
        files = save(results)
        assert all(Path(f).name.startswith(results.checkpoint) for f in files)
        record(results, config_of(folder).logger, print)
        found[results.seen["step"]] = results.losses["causal"]["all"][0]
        time.sleep(1.1)  # W&B names a segment after the second it began in
    assert found[2] == pytest.approx(report["eval/loss"], abs=1e-6)
    assert found[1] != found[2]
    rows, ids = {}, set()
    for path in (folder / "evaluation" / "wandb").glob("offline-run-*/*.wandb"):
        by_kind = {r.WhichOneof("record_type"): r for r in records(path)}
        ids.add(by_kind["run"].run.run_id)
        assert (by_kind["run"].run.job_type, by_kind["run"].run.run_group) == ("evaluate", folder.name)
        items = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in by_kind["history"].history.item}
        rows[items["step"]] = (items["causal/all/loss"], items["_step"])
    assert len(ids) == 1
    assert {step: loss for step, (loss, _) in rows.items()} == found
    assert rows[1][1] > rows[2][1]  # W&B's own counter never goes back


def test_a_corpus_of_text_alone(run, corpus_without):  # noqa: F811
    results = evaluated(run("trainer.max_steps=1"), f"data.path={corpus_without('starter_pictures')}", "routing=training")
    losses = results.losses["training"]
    assert set(losses) == {"all", "text", "starter_glosses/text"}
    assert losses["all"] == losses["text"] == losses["starter_glosses/text"]
    assert losses["all"][1] > 7 * 256  # of 8 sequences of 256, less the documents' last tokens


def test_a_corpus_of_captioned_pictures_alone(run, corpus_without, small_corpus):  # noqa: F811
    """Every picture and every caption is scored, whole, and no padding; what stands behind is seen by nobody."""
    folder = run("trainer.max_steps=1", experiment="dense")
    path = corpus_without("starter_glosses")
    corpus = Corpus.open(path)
    held_out = held_out_sequences(load_config(folder / "config.yaml"), corpus)
    v, length = corpus.vocabulary, sum(held_out.plan.budget)
    pad = v.specials.pad
    batch = held_out.loader.batch(range(held_out.plan.sequences_per_epoch))
    is_pad = batch.tokens == pad
    assert is_pad.any()
    assert (is_pad.long().diff(dim=1) >= 0).all(), "padding is last"
    assert (batch.targets[is_pad] == -1).all()
    assert length <= 256
    assert is_pad.float().mean() < 0.25
    whole = corpus.validation.sources[0]
    assert int((~is_pad).sum()) > 0.9 * sum(whole.tokens)
    results = evaluated(folder, f"data.path={path}", "sequences=24")
    losses = results.losses["causal"]
    assert {"text_given_image", "image_given_text", "starter_pictures/image"} <= set(losses)
    assert not any(PADDING in name.split("/") for name in losses)
    assert losses["image"][1] == results.sequences * held_out.plan.budget[1]


def test_padding_changes_no_causal_loss(run, corpus_without):  # noqa: F811
    """The same sequences with other ids in the place of padding: the same loss of every target."""
    folder = run("trainer.max_steps=1", experiment="moe_1t1i")
    corpus = Corpus.open(corpus_without("starter_glosses"))
    config = load_config(folder / "config.yaml")
    held_out = held_out_sequences(config, corpus)
    model, _ = build_model(config, corpus.vocabulary, WORLD)
    batch = held_out.loader.batch(range(4))
    pad = batch.tokens == corpus.vocabulary.specials.pad
    assert pad.any()
    other = replace(batch, tokens=batch.tokens.masked_fill(pad, corpus.vocabulary.specials.eos))
    a, b = (model.eval()(x, partial(_nll, x.targets.flatten()), None, "causal")[0] for x in (batch, other))
    assert torch.equal(a, b)


def test_a_corpus_of_other_tokenizers_is_refused(run, small_corpus, tmp_path):  # noqa: F811
    folder = run("trainer.max_steps=1", experiment="dense")
    foreign = tmp_path / "foreign"
    shutil.copytree(small_corpus, foreign)
    manifest = json.loads((foreign / "manifest.json").read_text())
    manifest["tokenizers"]["text"] = {"name": "another", "fingerprint": "0123456789abcdef"}
    (foreign / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"^tokenizer.text=\S+: the corpus \S+ was made with another \(01234567, not"):
        evaluated(folder, f"data.path={foreign}")
