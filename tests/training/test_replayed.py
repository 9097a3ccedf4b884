"""Runs whose micro-batches are replayed, with a recording of ops in the place of CUDA graphs, against the same runs without."""

from __future__ import annotations

import pytest

from momafuse.errors import UserError
from momafuse.training import pretraining, setup
from tests.training.recorded import Recording
from tests.training.test_working_copies import same

WORDS = ("trainer.global_batch=16", "trainer.micro_batch=4", "trainer.max_steps=4", "router.noise=true", "trainer.eval_every=3")
MORE = {"fp32": ("trainer.precision=fp32",), "probe, full": ("trainer.precision=bf16", "trainer.probe=3")}


@pytest.mark.parametrize("more", MORE)
def test_a_run_is_the_same_to_the_last_digit(run, monkeypatch, more):
    words = (*WORDS, *MORE[more], "trainer.activation_checkpointing=full" if "full" in more else "trainer.dry_step=true")
    plain = run(*words, "run.name=plain", experiment="mod_moma_4t4i")
    made: list[Recording] = []

    def recording(device):
        made.append(Recording(device))
        return made[-1]

    monkeypatch.setattr(pretraining, "CudaCapture", recording)
    monkeypatch.setattr(setup, "check_graphs", lambda *_, **__: None)
    same(run(*words, "run.name=replayed", "trainer.cuda_graphs=true", experiment="mod_moma_4t4i"), plain)
    assert len(made) == 1
    assert made[0].captured


def test_without_a_gpu_it_is_refused(run):
    with pytest.raises(UserError, match=r"trainer\.cuda_graphs=true: needs a GPU"):
        run("trainer.cuda_graphs=true", "trainer.device=cpu")
