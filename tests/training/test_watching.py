"""What a run says of itself beside its losses: speed, probe, trace; none of them changes a loss."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from momafuse.checkpoint import store
from momafuse.config.compose import compose
from momafuse.errors import UserError
from momafuse.reports.metrics import read_metrics
from momafuse.training import speed
from momafuse.training.speed import straggler
from tests.training.conftest import words

SHORT = ("trainer.max_steps=4", "checkpoint.every=2")


def rows(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row]


@pytest.fixture(scope="module")
def watched(small_corpus, tmp_path_factory) -> tuple[Path, Path]:
    """One run with everything on, one with nothing."""
    from momafuse.training import finish
    from momafuse.training.pretraining import train

    root = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        for draw in ("plot_losses", "plot_experts", "draw_routing", "reconstruct"):
            patch.setattr(finish, draw, lambda *_: None)
        for more in (["run.name=on", "trainer.probe=2", "trainer.profile=2:3"], ["run.name=off"]):
            train(compose(["+experiment=moma_4t4i", *words(small_corpus, root), *SHORT, "trainer.dry_step=false", *more]))
    return root / "on", root / "off"


def test_watching_changes_no_loss(watched):
    on, off = (
        [{k: v for k, v in row.items() if not k.startswith(("perf/", "probe/"))} for row in rows(folder)] for folder in watched
    )
    assert on == off


def test_speed_of_a_step(watched):
    for row in rows(watched[1]):
        assert row["perf/tokens_per_second_per_device"] == row["perf/tokens_per_second"] > 0
        assert 0.1 < row["perf/memory_peak_gb"] < 16
        assert "perf/mfu" not in row
        assert row["perf/checkpoint_wait"] >= 0
    assert [row["perf/checkpoint_wait"] > 0 for row in rows(watched[1])] == [False, False, True, False]


def test_mfu_is_the_flops_of_the_step_against_the_peak(monkeypatch):
    """On four GPUs of 1 TFLOP/s."""
    monkeypatch.setattr(speed, "peak_flops", lambda name: 1e12)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "any")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)

    class Stub:
        def __init__(self, **facts) -> None:
            self.__dict__.update(facts)

    stage = Stub(world=Stub(device=torch.device("cuda"), size=4, mesh=None), dtype=torch.bfloat16, unit="tokens")
    stage.flops, stage.of_step = lambda step: 1e11 * step, lambda: 1024
    row = speed.Speed(stage, Stub(waited=0.0)).row(3, 0.5, 0.1, [1.0])
    assert row["perf/mfu"] == pytest.approx(3e11 / (0.5 * 4e12))
    assert row["perf/tokens_per_second_per_device"] == 1024 / 0.5 / 4
    assert row["perf/memory_peak_gb"] == 5e-9


def test_the_straggler_is_the_slowest_against_the_mean():
    assert straggler([1.0, 1.0, 1.0, 3.0]) == pytest.approx(1.0)
    assert straggler([2.0, 2.0]) == 0.0


def test_the_probe_reports_by_layer_on_its_steps_only(watched):
    found = [{k for k in row if k.startswith("probe/")} for row in rows(watched[0])]
    parts = ["0", "1", "embedding", "norm", "head"]
    keys = {f"probe/activations/{i}" for i in "01"} | {f"probe/{what}/{p}" for what in ("weights", "updates") for p in parts}
    keys |= {f"probe/router_gradients/{i}" for i in "01"}
    assert found == [set(), keys, set(), keys]
    assert not any(k.startswith("probe/") for row in rows(watched[1]) for k in row)


def test_norms_are_those_of_the_checkpoints(watched):
    """Weights of step 4 against the tensors of its checkpoint."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    out = watched[0] / "weights.pt"
    dcp_to_torch_save(store.latest(watched[0] / "checkpoints"), out)
    model = torch.load(out, weights_only=True)["model"]
    row = rows(watched[0])[-1]
    for part, prefix in (("0", "blocks.0."), ("1", "blocks.1."), ("head", "head."), ("embedding", "embedding.")):
        expected = math.sqrt(sum(float(p.double().square().sum()) for path, p in model.items() if path.startswith(prefix)))
        assert row[f"probe/weights/{part}"] == pytest.approx(expected, rel=1e-9)
        assert 0 < row[f"probe/updates/{part}"] < 0.2 * expected
    assert 0.1 < row["probe/activations/1"] < 10
    of_layers = math.hypot(*(row[f"probe/router_gradients/{i}"] for i in range(2)))
    assert 0 < of_layers == pytest.approx(row["train/router_grad_norm"], rel=1e-6)


def test_the_trace_holds_its_steps(watched):
    with gzip.open(watched[0] / "profile" / "steps_2_3.json.gz") as file:
        events = json.load(file)["traceEvents"]
    updates = [e for e in events if str(e.get("name")).startswith("Optimizer.step#AdamW.step")]
    assert len(updates) == 2


@pytest.mark.parametrize("value", ["x", "3:2", "0:1", "4", "1:2:3"])
def test_what_is_no_range_of_steps_is_refused(value):
    with pytest.raises(UserError, match=r"trainer.profile=.*: must be FIRST:LAST, e.g. 10:13, or null"):
        compose(["size=micro", f"trainer.profile={value}"])


@pytest.mark.slow
def test_the_probe_agrees_between_layouts_and_under_compile(small_corpus, run_root):
    """One rank, two sharded ranks, two replicas, compiled blocks: the same norms, but for rounding."""
    found = {}
    cases = {"one": (1, []), "two": (2, []), "replicas": (2, ["trainer.replicas=2"]), "compiled": (1, ["trainer.compile=true"])}
    for name, (ranks, more) in cases.items():
        run = ["-m", "momafuse.train", "+experiment=moma_4t4i", *words(small_corpus, run_root), *SHORT, f"run.name={name}"]
        own = ["trainer=cpu", "trainer.global_batch=8", "trainer.max_steps=1", "trainer.probe=1", *more]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        subprocess.run([sys.executable, *launcher, *run, *own], check=True, capture_output=True, env=os.environ)
        (row,) = rows(run_root / name)
        found[name] = {k: v for k, v in row.items() if k.startswith("probe/")}
    for name in cases:
        assert found[name] == pytest.approx(found["one"], rel=1e-4), name
