"""Upcycled runs: which data they see, what starts again, what is counted, how they go on, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from momafuse.checkpoint import store
from momafuse.config.compose import compose
from momafuse.errors import UserError
from momafuse.reports.metrics import read_metrics
from momafuse.training import pretraining
from momafuse.training.schedule import capacity_factor
from tests.training.test_loop import RESULTS, kill_after, losses

TOKENS = 4 * 256  # of a step at size micro


@pytest.fixture
def seed(run):
    return run("trainer.max_steps=3", "run.name=seed", experiment="moe_1t1i")


def test_data_go_on_where_the_seed_stopped_and_the_schedule_starts_again(run, seed, monkeypatch):
    seen: list[int] = []
    backward = pretraining.backward

    def watched(config, setup, batch, *rest):
        seen.extend(batch.sequence.tolist())
        return backward(config, setup, batch, *rest)

    monkeypatch.setattr(pretraining, "backward", watched)
    folder = run("trainer.max_steps=2", "run.name=up", f"upcycle={seed}")
    assert seen == list(range(12, 20)), "the seed has seen sequences 0 to 11"
    before, state = (store.read_state(store.find(f)) for f in (seed, folder))
    assert before["upcycled"] is None
    assert before["sequences"] == 12
    assert (state["step"], state["sequences"], state["schedule_steps"]) == (2, 20, 2)
    assert state["tokens"] == 5 * TOKENS == sum(state["tokens_of"].values())
    assert state["upcycled"]["step"] == 3
    assert state["upcycled"]["tokens"] == 3 * TOKENS
    rows = read_metrics(folder / "metrics.jsonl")
    first = next(row for row in rows if "train/loss" in row)
    assert (first["step"], first["tokens"], first["train/lr"]) == (1, 4 * TOKENS, 1e-3)  # half of the warm-up
    assert rows[0]["step"] == 0
    assert "eval/loss" in rows[0]
    assert rows[0]["flops"] == before["flops"] == state["upcycled"]["flops"]
    assert state["flops"] == pytest.approx(before["flops"] / 3 * 5, rel=1e-2), "but for routers a step costs the same"
    again = run("trainer.max_steps=1", "run.name=grandchild", f"upcycle={folder}", "model.experts={text: 8, image: 8}")
    assert store.read_state(store.find(again))["sequences"] == 24


def test_the_same_command_goes_on_without_its_seed_and_makes_the_same_losses(run, seed, run_root):
    more = (f"upcycle={seed}", "upcycling.capacity_steps=3", "upcycling.optimizer=tiled", "optim.schedule_steps=4")
    whole = run("trainer.max_steps=4", "run.name=whole", *more)
    run("trainer.max_steps=2", "run.name=stopped", *more)
    shutil.rmtree(seed)
    said: list[str] = []
    stopped = run("trainer.max_steps=4", "run.name=stopped", *more)
    assert losses(stopped) == losses(whole)
    assert [row["flops"] for row in read_metrics(stopped / "metrics.jsonl") if "train/loss" in row] == [
        row["flops"] for row in read_metrics(whole / "metrics.jsonl") if "train/loss" in row
    ]
    run("trainer.max_steps=4", "run.name=stopped", *more, said=said)
    assert "is complete: 4 steps" in said[0]
    with pytest.raises(UserError, match="another upcycle;"):
        run("trainer.max_steps=5", "run.name=stopped", f"upcycle={run_root / 'other'}", *more[1:])
    with pytest.raises(UserError, match=r"another upcycle;"):
        run("trainer.max_steps=5", "run.name=stopped", *more[1:])


@pytest.mark.slow
def test_killed_and_started_again(run, start, seed, run_root):
    more = (f"upcycle={seed}", "trainer.max_steps=8", "checkpoint.every=2", "upcycling.capacity_steps=5")
    whole = losses(run("run.name=whole", *more))
    for steps in (1, 3):
        kill_after(start("run.name=killed", *more), run_root / "killed", steps, 0.1)
    output, _ = (process := start("run.name=killed", *more)).communicate(timeout=240)
    assert process.returncode == 0, output
    assert losses(run_root / "killed") == whole
    rows = [row for row in read_metrics(run_root / "killed" / "metrics.jsonl") if row["step"] == 0]
    assert len(rows) == 1


def test_noise_is_on_and_wider_capacity_softens_the_jump(run, seed):
    quiet = run("trainer.max_steps=1", "run.name=quiet", f"upcycle={seed}", "router.noise=false")
    noisy = run("trainer.max_steps=1", "run.name=noisy", f"upcycle={seed}")
    wide = run("trainer.max_steps=2", "run.name=wide", f"upcycle={seed}", "upcycling.capacity_steps=2")
    first = {f.name: losses(f)[0][: len(RESULTS)] for f in (quiet, noisy, wide)}
    assert first["quiet"] != first["noisy"] != first["wide"]
    rows = [row for row in read_metrics(wide / "metrics.jsonl") if "train/loss" in row]
    begin = store.read_state(store.find(seed))["flops"]
    assert rows[0]["flops"] - begin > rows[1]["flops"] - rows[0]["flops"], "more rows cost more"


def test_capacity_falls_in_equal_parts():
    config = compose(["+experiment=moma_4t4i", "upcycle=x", "upcycling.capacity_steps=3"]).config
    assert [capacity_factor(config, step, 4) for step in (0, 1, 2, 3, 4, 9)] == [4, 4, 3, 2, 1, 1]
    assert capacity_factor(replace(config, upcycle=None), 1, 4) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run.seed=1"], r"upcycle=.*: was trained with another run\.seed"),
        (["model.n_heads=1"], r"was trained with another model\.n_heads"),
        (["model.placement=pre"], r"was trained with another model\.placement"),
        (["model.ffn=96"], r"upcycle=.*: the seed cannot become this model: .*gate is \(4, 32, 64\), its source \(1, 32, 48\)"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(run, seed, run_root, words, message):
    with pytest.raises(UserError, match=message) as error:
        run("trainer.max_steps=1", "run.name=up", f"upcycle={seed}", *words)
    assert "\n" not in str(error.value)
    assert not (run_root / "up").exists()


def test_paths_and_corpora_that_are_not_there(run, seed, monkeypatch):
    with pytest.raises(UserError, match="upcycle=/nowhere: no complete checkpoint there"):
        run("trainer.max_steps=1", "run.name=up", "upcycle=/nowhere")
    state = store.read_state(store.find(seed)) | {"corpus": "another"}
    monkeypatch.setattr(store, "read_state", lambda _: state)
    with pytest.raises(UserError, match="was trained on another corpus"):
        run("trainer.max_steps=1", "run.name=up", f"upcycle={seed}")


def test_copies_that_nothing_would_tell_apart_are_refused(run):
    two = run("trainer.max_steps=1", "run.name=two", experiment="moma_2t2i")
    with pytest.raises(UserError, match=r"router\.noise=False: copies of one expert of `text` would stay equal"):
        run("trainer.max_steps=1", "run.name=up", f"upcycle={two}", "router.noise=false")
    folder = run("trainer.max_steps=1", "run.name=up", f"upcycle={two}", "router.noise=false", "upcycling.weight_noise=0.01")
    assert json.loads((folder / "report.json").read_text())["steps"] == 1
