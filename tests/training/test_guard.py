"""Steps that update nothing, runs that stop, the dry step and its explanations; in one process at micro size."""

from __future__ import annotations

import gc
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._inductor.exc import InvalidCxxCompiler

from momafuse.checkpoint import store
from momafuse.config.compose import compose
from momafuse.config.schema import Config
from momafuse.errors import UserError
from momafuse.reports.metrics import read_metrics
from momafuse.training import dry, loop, pretraining, step
from momafuse.training.guard import LEAST, WINDOW, Guard
from momafuse.training.language import LanguageStage
from momafuse.world import World
from tests.training.test_loop import losses

ALONE = World(0, 1, torch.device("cpu"), None, None)
LONG = ("trainer.max_steps=6", "optim.schedule_steps=6")


@lru_cache
def config(*words: str) -> Config:
    return compose(["size=micro", "+experiment=dense", *words]).config


def guard(*words: str, saved=None) -> Guard:
    return Guard(config(*words), ALONE, Path("/nowhere"), saved, lambda: None)


class PlainStage(LanguageStage):
    """Of a tiny model."""

    def __init__(self, settings: Config) -> None:
        self.config, self.world, self.model = settings, ALONE, nn.Linear(2, 2)

    backward = row = flops = evaluate = renew = finish = None


def explained(*words: str):
    """As around a run of a tiny model."""
    return dry.explained(PlainStage(config(*words)))


def spoil(monkeypatch, *steps: int, factor: float = float("nan")) -> None:
    """Multiply the loss of these steps, as the model sees it."""
    real = step.backward

    def spoilt(settings, setup, batch, meter, of_step, number, *more):
        objective = step.objective

        def wrong(*args):
            loss = objective(*args)

            def times(hidden, head):
                found = loss(hidden, head)
                return found._replace(total=found.total * factor)

            return times

        with monkeypatch.context() as patch:
            patch.setattr(step, "objective", wrong if number in steps else objective)
            return real(settings, setup, batch, meter, of_step, number, *more)

    monkeypatch.setattr(pretraining, "backward", spoilt)


def skipped(folder: Path) -> list[int]:
    return [int(r["step"]) for r in read_metrics(folder / "metrics.jsonl") if r.get("train/skipped")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from tests.training.test_zoo import store_weights

    return store_weights(folder)


def test_a_gradient_that_is_not_finite_updates_nothing_and_the_run_goes_on(run, monkeypatch):
    before = weights(run("trainer.max_steps=2", "optim.schedule_steps=6", "run.name=a"))
    spoil(monkeypatch, 3)
    said: list[str] = []
    folder = run("trainer.max_steps=3", "optim.schedule_steps=6", "run.name=a")
    assert all(torch.equal(before[path], p) for path, p in weights(folder).items())
    folder = run(*LONG, "run.name=a", said=said)
    assert skipped(folder) == [3]
    assert store.read_state(store.find(folder))["guard"]["skipped"] == 1
    rows = losses(folder)
    assert all(torch.isfinite(torch.tensor(r[0])) for r in rows)
    assert [r[4] for r in rows] == [r[4] for r in losses(run(*LONG, "run.name=whole"))]  # the learning rate


def test_a_resumed_run_skips_what_the_undisturbed_one_skips(run, monkeypatch):
    monkeypatch.setattr("momafuse.training.guard.LEAST", 2)
    spoil(monkeypatch, 3, 5, factor=50.0)
    words = (*LONG, "trainer.skip_spikes=3", "optim.grad_clip=1e9")
    whole = run(*words, "run.name=whole")
    run(*words, "trainer.max_steps=4", "run.name=parts")
    parts = run(*words, "run.name=parts")
    assert skipped(whole) == skipped(parts) == [3, 5]
    assert losses(parts) == losses(whole)


def test_too_many_in_a_row_stop_the_run_with_one_line(run, monkeypatch):
    spoil(monkeypatch, *range(3, 9))
    with pytest.raises(UserError) as stopped:
        run("trainer.max_steps=9", "checkpoint.every=2", "trainer.max_skipped=2", "run.name=a")
    text = str(stopped.value)
    assert text.startswith("step 5: the gradient norm is nan (3 in a row, trainer.max_skipped=2); lower optim.lr=")
    assert "checkpoints/step_00000004" in text
    assert "run.name=..." in text
    assert "\n" not in text


def test_none_in_a_row_are_allowed(run, monkeypatch):
    spoil(monkeypatch, 2)
    with pytest.raises(UserError, match=r"step 2: the gradient norm is nan.*there is no checkpoint yet"):
        run("trainer.max_steps=3", "trainer.max_skipped=0")


def test_a_parameter_that_is_not_finite_stops_before_it_is_saved(run, monkeypatch):
    real = torch.optim.AdamW.step

    def spoilt(self, *args):
        real(self, *args)
        with torch.no_grad():
            self.param_groups[0]["params"][0].view(-1)[0] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", spoilt)
    with pytest.raises(UserError, match=r"step 1: parameter \S+ is not finite"):
        run("trainer.max_steps=3", "run.name=a", "checkpoint.every=1")


def test_the_counts_are_those_of_a_row():
    g = guard("trainer.max_skipped=3")
    for i, norm in enumerate([1.0, float("inf"), float("nan"), 1.0, float("inf")]):
        assert (g.objection(i, 1.0, norm) is None) == (norm == 1.0)
    assert (g.skipped, g.in_row) == (3, 1)
    assert "the loss is nan" in g.objection(5, float("nan"), 1.0)


@given(st.lists(st.floats(0.1, 100, allow_subnormal=False), max_size=150), st.integers(0, 150))
def test_spikes_are_those_above_the_median_of_accepted_norms_and_a_restart_changes_nothing(norms, cut):
    words = ("trainer.skip_spikes=4", "trainer.max_skipped=1000")
    g, accepted = guard(*words), []
    for i, norm in enumerate(norms):
        if i == cut:
            g = guard(*words, saved=g.state())
        window = sorted(accepted[-WINDOW:])
        middle = (window[len(window) // 2] + window[(len(window) - 1) // 2]) / 2 if window else 0.0
        expected = len(window) >= LEAST and norm > 4 * middle
        assert (g.objection(i, 1.0, norm) is not None) == expected
        if not expected:
            accepted.append(norm)


def test_the_dry_step_changes_nothing(run):
    words = ("trainer.max_steps=2", "router.noise=true", "model.placement=pre", "model.dropout=0.1", "trainer.precision=fp32")
    assert losses(run(*words, "run.name=dry", "trainer.dry_step=true")) == losses(run(*words, "run.name=wet"))


def test_the_dry_step_leaves_gradients_optimizer_and_random_state(run, monkeypatch):
    seen: list[bool] = []
    real = loop.dry_step

    def watched(stage):
        setup = stage.setup
        state, before = torch.get_rng_state(), [p.detach().clone() for p in setup.model.parameters()]
        real(stage)
        seen.append(torch.equal(state, torch.get_rng_state()))
        seen.append(all(torch.equal(a, b) for a, b in zip(before, setup.model.parameters(), strict=True)))
        seen.append(all(p.grad is None for p in setup.model.parameters()) and not setup.optimizer.state)

    monkeypatch.setattr(loop, "dry_step", watched)
    run("trainer.max_steps=1", "model.placement=pre", "model.dropout=0.1", "trainer.dry_step=true")
    assert seen == [True, True, True]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    ],
)
def test_out_of_memory_names_what_is_smaller(run, monkeypatch, error):
    def fails(*args, **named):
        raise error

    monkeypatch.setattr(pretraining, "backward", fails)
    with pytest.raises(UserError) as stopped:
        run("trainer.max_steps=1", "trainer.global_batch=24", "trainer.micro_batch=24", "trainer.dry_step=true")
    text = str(stopped.value)
    assert text.startswith("trainer.micro_batch=24: out of memory with ")
    assert "24 sequences of 256 tokens" in text
    assert text.endswith("try trainer.micro_batch=12 or trainer.activation_checkpointing=full")


def test_memory_that_this_machine_does_not_have():
    with pytest.raises(UserError, match=r"out of memory with 0\.0M parameters.*DefaultCPUAllocator"), explained():
        torch.empty(1 << 60, dtype=torch.uint8)


def test_an_error_of_another_kind_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shape"), explained("trainer.compile=true"):
        raise RuntimeError("shape")


def test_a_compiler_that_inductor_does_not_find():
    with pytest.raises(UserError, match=r"trainer\.compile=true: .*CXX"), explained("trainer.compile=true"):
        raise RuntimeError("backend='inductor' raised") from InvalidCxxCompiler()


def test_a_compiler_that_triton_does_not_find():
    with pytest.raises(UserError, match=r"trainer\.backend=auto: .* Triton finds none; .* CC$"), explained():
        raise RuntimeError(
            "Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl."
        )


@pytest.mark.slow
def test_a_missing_compiler_is_one_line(start, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    process = start("trainer.max_steps=1", "trainer.compile=true", experiment="dense")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 2
    assert output.splitlines()[-1].startswith("momafuse: error: trainer.compile=true: torch.compile finds no C++ compiler")


def test_the_collector_runs_on_fixed_steps_and_is_restored(monkeypatch):
    ran: list[int] = []
    monkeypatch.setattr(step.gc, "collect", lambda: ran.append(number))
    with step.collecting() as collect:
        assert not gc.isenabled()
        for number in range(1, 2 * step.COLLECT_EVERY + 50):
            collect(number)
    assert gc.isenabled()
    assert ran == [step.COLLECT_EVERY, 2 * step.COLLECT_EVERY]
