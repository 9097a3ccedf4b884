"""The state of routers, and their losses, over layouts, after a resume, and from a seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from momafuse.checkpoint import store
from momafuse.checkpoint.tensors import StoredTensors
from momafuse.reports.metrics import read_metrics
from tests.training.test_loop import losses

WITH_STATE = {"moe_loss_free": ["router.bias_rate=0.01"], "moma_threshold": ["router.decay=0.5"]}
BATCH = "trainer.global_batch=16"


def state(folder: Path) -> dict[str, torch.Tensor]:
    """The routers' buffers in the newest checkpoint."""
    tensors = StoredTensors(store.find(folder))
    return {path: tensors.weight(path) for path in tensors.shapes() if ".router.state." in path}


@pytest.mark.parametrize("experiment", WITH_STATE)
def test_a_resumed_run_has_the_state_and_the_losses_of_the_undisturbed_one(run, experiment):
    words = [*WITH_STATE[experiment], BATCH, "optim.schedule_steps=6"]
    whole = run("trainer.max_steps=6", "run.name=whole", *words, experiment=experiment)
    for steps in (2, 3, 6):
        parts = run(f"trainer.max_steps={steps}", "run.name=parts", *words, experiment=experiment)
    assert losses(parts) == losses(whole)
    mine, expected = state(parts), state(whole)
    assert mine.keys() == expected.keys()
    assert mine
    for path, value in expected.items():
        assert torch.isfinite(value).all()
        assert value.unique().numel() > 1, "it has moved"
        assert torch.equal(mine[path], value), path


@pytest.mark.parametrize("experiment", WITH_STATE)
@pytest.mark.parametrize("micro_batch", [4, 8])
def test_micro_batches_make_the_state_of_the_batch(run, experiment, micro_batch):
    words = [*WITH_STATE[experiment], BATCH, "trainer.max_steps=3"]
    whole = state(run("trainer.micro_batch=16", "run.name=whole", *words, experiment=experiment))
    parts = state(run(f"trainer.micro_batch={micro_batch}", "run.name=parts", *words, experiment=experiment))
    for path, value in whole.items():
        torch.testing.assert_close(parts[path], value, rtol=1e-5, atol=1e-6)


def test_what_is_reported_of_losses_is_of_the_global_batch(run):
    """In step 1 the weights are equal, so the sums are, however the batch is cut."""
    rows = []
    for n in (16, 4):
        words = ["trainer.max_steps=1", BATCH, f"trainer.micro_batch={n}", f"run.name=of{n}"]
        rows.append(read_metrics(run(*words, experiment="moe_token_choice") / "metrics.jsonl")[0])
    keys = [key for key in rows[0] if key.startswith("router/")]
    assert {"router/balance", "router/z", "router/max_violation", "router/local_entropy_text"} <= set(keys)
    for key in keys:
        # of sums in fp32; what is squared of their differences is rounded that much more
        assert rows[1][key] == pytest.approx(rows[0][key], rel=1e-4 if key == "router/importance" else 1e-6), key
    assert 1 <= float(rows[0]["router/balance"]) < 8


def test_with_one_micro_batch_for_each_the_last_knows_all(run):
    """Two micro-batches differ from one by what the first cannot know of the second, and no more."""
    shape = ["trainer.max_steps=2", BATCH, "router.loss={balance: 1.0, importance: 1.0}"]
    one = losses(run(*shape, "trainer.micro_batch=16", "run.name=one", experiment="moe_token_choice"))
    two = losses(run(*shape, "trainer.micro_batch=8", "run.name=two", experiment="moe_token_choice"))
    assert one[0][0] == pytest.approx(two[0][0], rel=1e-6)  # the loss of step 1
    assert one[1][0] == pytest.approx(two[1][0], rel=1e-3)


def test_a_seed_without_state_gets_fresh_and_one_with_it_is_tiled(run, run_root):
    seed = run("trainer.max_steps=2", BATCH, "model.experts={all: 2}", "run.name=seed", experiment="moe_loss_free")
    more = [f"upcycle={seed}", "router.noise=true", "trainer.max_steps=3"]
    tiled = state(run(*more, "run.name=tiled", experiment="moe_loss_free"))
    before = state(seed)
    assert all(value.shape == (8,) for value in tiled.values())
    moved = [(tiled[path] - before[path].repeat_interleave(4)).abs().max() for path in before]
    assert max(moved) <= 3 * 0.001 + 1e-6, "three steps of the bias away from the seed's"
    dense = run("trainer.max_steps=2", BATCH, "run.name=dense", experiment="dense")
    fresh = run(f"upcycle={dense}", "router.noise=true", "trainer.max_steps=1", "run.name=fresh", experiment="moma_threshold")
    assert all(torch.isfinite(value).all() for value in state(fresh).values())
