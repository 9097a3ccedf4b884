"""Members of the zoo in the loop: resumed to the last digit, and what may change between two starts of a run."""

from __future__ import annotations

import pytest
import torch

from momafuse.checkpoint import store
from momafuse.errors import UserError
from tests.training.test_loop import losses

RESUMED = {
    "mod_moma_4t4i": ["router.noise=true"],
    "mod_moe_1t1i": ["model.depth.per_modality=false"],
    "mot": ["model.placement=pre", "model.dropout=0.1"],
    "mot_text_moe4": ["model.experts.shared=1", "model.width_share.image=0.5"],
    "moma_7t1i": ["model.experts.every=2", "model.experts.start=1", "model.attention.n_kv_heads=1"],
}


@pytest.mark.parametrize("experiment", RESUMED)
def test_a_resumed_member_makes_the_losses_of_the_undisturbed_one(run, experiment):
    words = RESUMED[experiment]
    whole = run("trainer.max_steps=4", "run.name=whole", "optim.schedule_steps=4", *words, experiment=experiment)
    run("trainer.max_steps=2", "run.name=parts", "optim.schedule_steps=4", *words, experiment=experiment)
    parts = run("trainer.max_steps=4", "run.name=parts", "optim.schedule_steps=4", *words, experiment=experiment)
    assert losses(parts) == losses(whole)


def test_dropout_follows_from_seed_and_step(run):
    plain = run("trainer.max_steps=1", "run.name=plain", "model.placement=pre", experiment="dense")
    dropped = run("trainer.max_steps=1", "run.name=dropped", "model.placement=pre", "model.dropout=0.1", experiment="dense")
    again = run("trainer.max_steps=1", "run.name=again", "model.placement=pre", "model.dropout=0.1", experiment="dense")
    assert losses(plain)[0][0] != losses(dropped)[0][0]
    assert losses(again) == losses(dropped)


def test_activation_checkpointing_is_no_other_run(run):
    plain = run("trainer.max_steps=3", "run.name=plain", "trainer.precision=fp32")
    run("trainer.max_steps=1", "run.name=saving", "trainer.precision=fp32", "optim.schedule_steps=3")
    saving = run(
        "trainer.max_steps=3", "run.name=saving", "trainer.precision=fp32", "optim.schedule_steps=3",
        "trainer.activation_checkpointing=full",
    )  # fmt: skip
    assert losses(saving)[1:] == losses(plain)[1:]


def test_frozen_parameters_stay_and_the_run_goes_on(run):
    words = ["run.name=frozen", "optim.train=['*.experts.*']", "optim.schedule_steps=4"]
    whole = losses(run("trainer.max_steps=4", "run.name=whole", *words[1:]))
    first = run("trainer.max_steps=1", *words)
    before = store_weights(first)
    assert losses(run("trainer.max_steps=4", *words)) == whole
    after = store_weights(first)
    moved = {path for path in before if not torch.equal(before[path], after[path])}
    assert moved == {path for path in before if ".experts." in path}


def store_weights(folder) -> dict[str, torch.Tensor]:
    """The parameters of a run's last checkpoint, by path."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    out = folder / "weights.pt"
    latest = store.latest(folder / "checkpoints")
    assert latest is not None
    dcp_to_torch_save(latest, out)
    weights: dict[str, torch.Tensor] = torch.load(out, weights_only=True)["model"]
    return weights


def test_a_pattern_that_matches_nothing_is_one_line(run, run_root):
    with pytest.raises(UserError, match=r"optim\.train=\*\.expert\.\*: matches no parameter"):
        run("trainer.max_steps=1", "optim.train=['*.expert.*']")


def test_a_vocabulary_that_is_too_small_stops_before_anything_is_written(run, run_root):
    with pytest.raises(UserError, match=r"model\.vocabulary_size=100: the tokenizers have \d+ ids"):
        run("trainer.max_steps=1", "model.vocabulary_size=100", "run.name=small")
    assert not (run_root / "small").exists()
