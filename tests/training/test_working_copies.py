"""Runs with working copies of weights against the same runs without: every number that is written down, to the last digit."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from momafuse.checkpoint import store
from momafuse.reports.metrics import read_metrics
from momafuse.training import setup
from tests.training.test_auxiliary import stage, weights
from tests.training.test_loop import losses

TIMES = ("seconds", "perf/")
BF16 = ("trainer.precision=bf16", "trainer.global_batch=8", "trainer.micro_batch=4")


def written(folder: Path) -> list[dict[str, object]]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [{key: x for key, x in row.items() if not key.startswith(TIMES)} for row in rows]


def same(one: Path, other: Path) -> None:
    assert written(one) == written(other)
    same_weights(one, other)


def same_weights(one: Path, other: Path) -> None:
    mine, theirs = weights(store.find(one)), weights(store.find(other))
    assert all(p.equal(theirs[path]) for path, p in mine.items())


@pytest.fixture
def without(monkeypatch):
    """Run something with modules that cast their parameters themselves."""

    def call(action, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(setup, "working", lambda *_: nullcontext)
            return action(*args, **kwargs)

    return call


OPTIONS = {
    "noise, probe, full": ("router.noise=true", "trainer.probe=1", "trainer.activation_checkpointing=full"),
    "dry, frozen": ("trainer.dry_step=true", "optim.train=['*.experts.*','*norm*']"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_run_and_its_evaluations(run, without, option):
    words = (*BF16, "trainer.max_steps=3", "trainer.eval_every=2", *OPTIONS[option])
    mine = run(*words, "run.name=mine", experiment="mod_moma_4t4i")
    same(mine, without(run, *words, "run.name=other", experiment="mod_moma_4t4i"))


def test_a_run_that_goes_on(run, without):
    words = (*BF16, "optim.schedule_steps=4")
    run(*words, "trainer.max_steps=2", "run.name=parts")
    parts = run(*words, "trainer.max_steps=4", "run.name=parts")
    whole = without(run, *words, "trainer.max_steps=4", "run.name=whole")
    assert losses(parts) == losses(whole)
    same_weights(parts, whole)


def test_an_upcycled_run(run, without):
    seed = run(*BF16, "trainer.max_steps=1", "run.name=seed", experiment="moe_1t1i")
    words = (*BF16, "trainer.max_steps=2", f"upcycle={seed}", "upcycling.capacity_steps=2", "upcycling.optimizer=tiled")
    same(run(*words, "run.name=mine"), without(run, *words, "run.name=other"))


def test_the_stage_of_auxiliary_routers(run, run_root, without):
    source = run(*BF16, "trainer.max_steps=1", experiment="mod_moma_4t4i")
    words = (*BF16, "trainer.max_steps=2")
    mine = stage(run_root, source, *words, "run.name=mine")
    same(mine, without(stage, run_root, source, *words, "run.name=other"))
