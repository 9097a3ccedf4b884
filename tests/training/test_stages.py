"""Runs whose mixture changes: resumed across the seam, begun from others, and what is refused."""

from __future__ import annotations

import pytest

from momafuse.checkpoint import store
from momafuse.errors import UserError
from momafuse.reports.metrics import read_metrics
from momafuse.training import pretraining
from tests.small_corpus import make_small_corpus
from tests.training.test_auxiliary import stage
from tests.training.test_loop import RESULTS, losses

WORDS = [f"++data.sources.more.{word}" for word in ("reader=starter_glosses", "path=null", "weight=0", "variants=1")]
FIRST = "{from: 0.5, weights: {starter_glosses: 0.5, more: 1}}"
STAGES = f"data.stages=[{FIRST}, {{from: 0.8, weights: {{starter_glosses: 0}}}}]"
ONE = f"data.stages=[{FIRST}]"
SEAMS = [3 * 4, 5 * 4]  # of six steps of four sequences


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    """With a second source of texts, so that there are shares to change."""
    with pytest.MonkeyPatch.context() as patch:
        return make_small_corpus(tmp_path_factory.mktemp("corpus") / "small", patch, *WORDS)


@pytest.fixture
def run(run):
    return lambda *more, **named: run(*WORDS, *more, **named)


@pytest.fixture
def seen(monkeypatch):
    """The sequences that steps read, with the tokens of each."""
    found: dict[int, list[int]] = {}
    backward = pretraining.backward

    def watched(config, setup, batch, *rest):
        found.update(zip(batch.sequence.tolist(), batch.tokens.tolist(), strict=True))
        return backward(config, setup, batch, *rest)

    monkeypatch.setattr(pretraining, "backward", watched)
    return found


def test_a_run_resumed_across_the_seam_makes_the_same_rows(run, seen):
    whole = run("trainer.max_steps=6", "run.name=whole", STAGES, "optim.schedule_steps=6")
    first = dict(seen)
    seen.clear()
    for steps in (2, 4, 6):  # the first planned length holds, not that of the day
        run(f"trainer.max_steps={steps}", "run.name=parts", STAGES, "optim.schedule_steps=6")
    parts = whole.parent / "parts"
    assert losses(parts) == losses(whole)
    assert seen == first
    assert store.read_state(store.find(parts))["stages"] == SEAMS
    run("trainer.max_steps=8", "run.name=parts", STAGES, "optim.schedule_steps=6")  # the last stage goes on
    assert store.read_state(store.find(parts))["stages"] == SEAMS
    assert sorted(seen) == list(range(8 * 4))


def test_the_planned_length_is_that_of_the_first_start(run):
    folder = run("trainer.max_steps=4", "run.name=x", ONE)
    run("trainer.max_steps=6", "run.name=x", ONE)
    assert store.read_state(store.find(folder))["stages"] == [8]


def test_runs_that_begin_with_another_go_on_in_its_stages(run, run_root):
    seed = run("trainer.max_steps=4", "run.name=seed", "optim.schedule_steps=6", STAGES, experiment="moe_1t1i")
    up = run("trainer.max_steps=2", "run.name=up", f"upcycle={seed}", STAGES)
    assert store.read_state(store.find(up))["stages"] == SEAMS
    fork = run(
        "trainer.max_steps=6", "run.name=fork", f"resume={seed}", "optim.schedule_steps=9", STAGES, experiment="moe_1t1i"
    )
    assert store.read_state(store.find(fork))["stages"] == SEAMS
    whole = run("trainer.max_steps=6", "run.name=w", "optim.schedule_steps=6", STAGES, experiment="moe_1t1i")
    rows = [
        [tuple(r[k] for k in RESULTS[:1]) for r in read_metrics(f / "metrics.jsonl") if "train/loss" in r]
        for f in (fork, whole)
    ]
    assert rows[0][0] == rows[1][4]  # the step of the seam: the weights are equal still


def test_auxiliary_routers_read_on_in_the_stages_of_their_model(run, run_root):
    source = run("trainer.max_steps=4", "run.name=model", "optim.schedule_steps=6", STAGES)
    state = store.read_state(store.find(stage(run_root, source, "trainer.max_steps=2")))
    assert (state["origin_sequence"], state["stages"]) == (16, SEAMS)


def test_other_stages_are_another_run(run):
    run("trainer.max_steps=2", "run.name=x")
    with pytest.raises(UserError, match=r"was trained with another data\.stages; choose another run\.name or restore"):
        run("trainer.max_steps=4", "run.name=x", STAGES)


def test_a_stage_that_changes_no_share_is_refused(run, run_root):
    alone = "data.stages=[{from: 0.5, weights: {starter_pictures: 3, starter_glosses: 3}}]"
    message = (
        r"^data\.stages\[0\]\.weights: leave every source its share, .*\(image by starter_pictures, text by starter_glosses\)"
    )
    with pytest.raises(UserError, match=message):
        run("trainer.max_steps=2", "run.name=x", alone)
    assert not (run_root / "x").exists()


def test_a_stage_that_has_no_step_is_refused_before_anything_is_made(run, run_root):
    with pytest.raises(UserError, match=r"^data\.stages\[1\]\.from=0\.8: no step of 2 is left to it"):
        run("trainer.max_steps=2", "run.name=x", STAGES)
    assert not (run_root / "x").exists()
