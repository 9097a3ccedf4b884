"""A dense text model as a seed: its logits on text, ids for pictures behind its own, and a sparse model from it that learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from momafuse.checkpoint import store
from momafuse.checkpoint.tensors import StoredTensors
from momafuse.interface import Model
from momafuse.train import main as train
from tests.exchange import foreign
from tests.exchange.test_chameleon import imported

TEXT = "The quick brown fox doesn't jump over 1,234 lazy dogs; a red apple on a table"


@pytest.mark.parametrize("tied", [False, True])
def test_logits_of_text_are_those_of_transformers(tmp_path: Path, tied: bool) -> None:
    theirs = foreign.llama(tmp_path / "theirs", tied=tied)
    model = Model.load(imported(tmp_path / "theirs"), "cpu")
    ids = model.tokens(TEXT)
    assert ids[0] == 1  # its own bos, at its own place
    with torch.inference_mode():
        wanted = theirs(torch.tensor([ids])).logits[0]
    found = model.logits(ids)
    assert found.shape[1] > wanted.shape[1]  # image codes, their frame
    assert wanted.std() > 0.5
    torch.testing.assert_close(found[:, : wanted.shape[1]], wanted, rtol=0, atol=1e-5)


def test_its_rows_stay_and_new_ones_are_like_them(tmp_path: Path) -> None:
    theirs = foreign.llama(tmp_path / "theirs").state_dict()
    tensors = StoredTensors(store.find(imported(tmp_path / "theirs")))
    other = StoredTensors(store.find(imported(tmp_path / "theirs", "other", "seed=1")))
    for path, name in (("embedding.weight", "model.embed_tokens.weight"), ("head.weight", "lm_head.weight")):
        weight, was = tensors.weight(path), theirs[name]
        assert torch.equal(weight[: len(was)], was)
        fresh = weight[len(was) :]
        assert len(fresh) == 8192 + 4  # codes, the frame of a picture, the place of one, pad
        assert abs(float(fresh.std() / was.std()) - 1) < 0.02
        assert abs(float(fresh.mean())) < 0.01
        assert not torch.equal(other.weight(path)[len(was) :], fresh)


def test_nothing_of_it_is_left_behind(tmp_path: Path) -> None:
    theirs = foreign.llama(tmp_path / "theirs").state_dict()
    tensors = StoredTensors(store.find(imported(tmp_path / "theirs")))
    fresh = 2 * (8192 + 4) * 64
    ours = sum(torch.Size(shape).numel() for shape in tensors.shapes().values())
    assert ours == sum(x.numel() for x in theirs.values()) + fresh
    assert not [path for path in tensors.shapes() if "q_norm" in path]


def test_a_sparse_model_that_begins_with_it_learns(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the corpus is made here
    foreign.llama(tmp_path / "theirs")
    run = imported(tmp_path / "theirs")
    words = f"+experiment=moma_4t4i upcycle={run} run.root={tmp_path} run.name=sparse logger.wandb=disabled trainer=cpu"
    words += " data.sources.starter_pictures.limit=400 data.sources.starter_glosses.limit=2000 data.sequence_length=128"
    words += " trainer.max_steps=12 trainer.global_batch=8 trainer.eval_every=6 trainer.eval_sequences=8"
    words += " optim.warmup_steps=2 optim.lr=1e-3"
    with pytest.raises(SystemExit) as end:
        train(words.split())
    assert end.value.code == 2
    assert f"write --config-dir {run}/configs size=run" in capfd.readouterr().err
    train(["--config-dir", str(run / "configs"), "size=run", *words.split()])
    rows = [json.loads(line) for line in (tmp_path / "sparse" / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["eval/loss"] for row in rows if "eval/loss" in row}
    assert losses[12] < losses[6] < losses[0]
    state = json.loads((store.find(tmp_path / "sparse") / "state.json").read_text())
    assert (state["upcycled"]["step"], state["origin_sequence"]) == (0, 0)
