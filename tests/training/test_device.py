"""Every program to every one of its ends on a device whose tensors are no host memory: a pretended one (tests/pretended.py)
and, where there is one, a GPU (`-m gpu`), in bf16 with its kernels.

What reaches numpy, a plot or JSON without `.cpu()`, or meets a tensor of the host in an op, fails here as it would on a GPU.
The other half, what kernels read as raw memory: tests/kernels/triton/conftest.py.

torch counts a process's devices once, at its first backward, and a device of others stays its accelerator: the pretended one is
for a process of its own, which the first test here starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from momafuse.checkpoint import store
from momafuse.config.compose import compose, compose_jobs
from momafuse.config.evaluate import EvaluateConfig
from momafuse.evaluation import held_out, language_model
from momafuse.evaluation.report import save
from momafuse.reports.metrics import read_metrics
from momafuse.training import loop
from momafuse.training.pretraining import train
from tests import pretended

REPORT = "report.json"


OF_ITS_OWN = pytest.mark.skipif(not os.environ.get(pretended.ALLOWED), reason="runs in test_a_pretended_device's process")
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.fixture(params=[pytest.param("pretended", marks=OF_ITS_OWN), pytest.param("cuda", marks=ON_GPU)])
def device(request, monkeypatch) -> Iterator[list[str]]:
    """What a run on the device is told more; compiled is only the run that shows it (test_gpu.py)."""
    if request.param == "cuda":
        yield ["trainer.precision=bf16", "trainer.compile=false"]
        return
    with pretended.device() as (there, _):
        for program in (loop, held_out, language_model):
            monkeypatch.setattr(program, "resolve_device", lambda *_: there)
        yield []


def losses(path) -> list[float]:
    return [row["train/loss"] for row in read_metrics(path / "metrics.jsonl") if "train/loss" in row]


@pytest.mark.skipif(bool(os.environ.get(pretended.ALLOWED)), reason="this is that process")
def test_a_pretended_device():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--tb=short", __file__]
    child = subprocess.run(command, env={**os.environ, pretended.ALLOWED: "1"}, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    assert " passed" in child.stdout


@OF_ITS_OWN
def test_it_refuses_what_a_gpu_refuses():
    with pretended.device() as (there, read):
        x = torch.ones(3, 4, device=there, requires_grad=True)
        y = torch.nn.functional.linear(x, torch.randn(5, 4).to(there)).relu().view(15)[3:].sum()
        y.backward()
        assert x.grad is not None
        assert x.grad.device == there
        for action in (x.detach().numpy, lambda: np.asarray(x.detach()), lambda: torch.ones(2, device=there).numpy()):
            with pytest.raises(TypeError, match="can't convert"):
                action()
        with pytest.raises(TypeError, match="not JSON serializable"):
            json.dumps({"loss": y.detach()})
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3, 4)
        assert (x + torch.tensor(1.0)).device == there
        assert x.detach().cpu().numpy().shape == (3, 4)
        assert not read
        float(y.detach())
        x.tolist()
        assert len(read) == 2, "what waits for the device is counted"


@pytest.mark.parametrize("experiment", ["dense", "moma_4t4i", "mod_moma_4t4i", "mot"])
def test_a_run_ends_with_its_report_and_pictures(run, device, experiment):
    more = ["trainer.max_steps=3", "trainer.eval_every=2", "router.noise=true", "trainer.dry_step=true", "trainer.probe=2"]
    path = run(
        *more, "trainer.micro_batch=4", "trainer.global_batch=8", experiment=experiment, sheets=experiment == "moma_4t4i"
    )
    assert json.loads((path / REPORT).read_text())["steps"] == 3
    assert any(key.startswith("probe/") for row in read_metrics(path / "metrics.jsonl") for key in row)


@OF_ITS_OWN
def test_losses_are_those_of_the_host(run, monkeypatch):
    """Norms are other ops there, rounded otherwise: after an update a near tie of a router may fall to another expert."""
    plain, routed = ["trainer.max_steps=3"], ["trainer.max_steps=1"]
    expected = losses(run(*plain, "run.name=host", experiment="moe_1t1i"))
    first = losses(run(*routed, "run.name=host_4t4i"))
    with pretended.device() as (there, _):
        monkeypatch.setattr(loop, "resolve_device", lambda *_: there)
        found = losses(run(*plain, "run.name=device", experiment="moe_1t1i"))
        found_first = losses(run(*routed, "run.name=device_4t4i"))
    assert found == pytest.approx(expected, rel=1e-6)
    assert found_first == pytest.approx(first, rel=1e-6)


def test_a_run_goes_on(run, device):
    more = ["optim.schedule_steps=4", "router.noise=true", *device]
    whole = run("trainer.max_steps=4", "run.name=whole", *more)
    for steps in (2, 4):
        cut = run(f"trainer.max_steps={steps}", "run.name=cut", *more)
    assert losses(cut) == losses(whole)


def test_a_spike_is_skipped_and_what_is_not_finite_is_named(run, device, monkeypatch):
    from momafuse.training import steps

    monkeypatch.setattr(steps, "gradient_norm", lambda parameters, device: torch.full((), torch.inf, device=device))
    said: list[str] = []
    path = run("trainer.max_steps=2", "trainer.max_skipped=3", *device, said=said)
    assert [row["train/skipped"] for row in read_metrics(path / "metrics.jsonl") if "train/skipped" in row] == [1, 1]


@pytest.mark.parametrize("experiment", ["moma_4t4i", "mod_moma_4t4i"])
def test_auxiliary_routers_and_both_routings(run, run_root, device, experiment):
    source = run("trainer.max_steps=1", *device, experiment=experiment)
    words = ["trainer.max_steps=1", "trainer.global_batch=4", "trainer.micro_batch=4", "trainer.eval_sequences=8"]
    common = ["logger.wandb=disabled", "trainer.precision=fp32", "trainer.dry_step=false", "run.name=aux", *device]
    train(compose(["+experiment=aux_routers", f"model_from={source}", f"run.root={run_root}", *words, *common]), say=print)
    report = json.loads((run_root / "aux" / REPORT).read_text())
    assert report["eval/routing"] == "causal"
    words = [f"run={run_root / 'aux'}", "routing=both", "sequences=8"]
    results = held_out.evaluate_run(compose_jobs(words, "evaluate", EvaluateConfig)[0].config)
    assert set(results.losses) == {"training", "causal"}
    assert save(results)
    model = language_model.LanguageModel.load(run_root / "aux")
    ids = [model.vocabulary.specials.bos, *model.encode("a red apple on a table")]
    (_, (likelihood, _)), *_ = model.scores([(ids[:3], ids[3:])])
    assert likelihood < 0


def test_an_upcycled_run(run, device):
    seed = run("trainer.max_steps=2", "run.name=seed", *device, experiment="moe_1t1i")
    more = ["upcycling.optimizer=tiled", "upcycling.weight_noise=0.1", "upcycling.redraw=0.25", "upcycling.capacity_steps=2"]
    path = run("trainer.max_steps=2", "run.name=up", f"upcycle={seed}", *more, *device)
    assert json.loads((path / REPORT).read_text())["steps"] == 2
    assert store.read_state(store.find(path))["upcycled"]["step"] == 2
