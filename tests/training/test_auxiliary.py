"""The stage of auxiliary routers: what it takes over, what learns, where the data goes on, what it says at its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from momafuse.checkpoint import store
from momafuse.config.compose import compose
from momafuse.errors import UserError
from momafuse.reports.metrics import read_metrics
from momafuse.routing.auxiliary import Lesson
from momafuse.training.auxiliary import BCEMeter, bce
from momafuse.training.pretraining import train


def stage(run_root: Path, source: Path, *more: str) -> Path:
    words = [f"model_from={source}", f"run.root={run_root}", "logger.wandb=disabled", "trainer.precision=fp32"]
    words += ["trainer.eval_sequences=8", "trainer.global_batch=8", "trainer.micro_batch=4", "trainer.dry_step=false"]
    job = compose(["+experiment=aux_routers", *words, *more])
    train(job, say=lambda _: None)
    return run_root / str(job.config.run.name)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    out = checkpoint.parent / "whole.pt"
    dcp_to_torch_save(checkpoint, out)
    found: dict[str, torch.Tensor] = torch.load(out, weights_only=True)["model"]
    return found


@pytest.mark.parametrize("experiment", ["moma_4t4i", "mod_moma_4t4i"])
def test_the_routers_learn_and_the_model_stays(run, run_root, experiment):
    source = run("trainer.max_steps=3", experiment=experiment)
    folder = stage(run_root, source, "trainer.max_steps=12", "optim.lr=3e-2")
    assert folder.name.startswith(f"{source.name}-aux_routers")
    rows = [r for r in read_metrics(folder / "metrics.jsonl") if "train/precision" in r]
    assert rows[-1]["train/loss"] < 0.9 * rows[0]["train/loss"]
    assert ("train/loss_depth" in rows[0]) == experiment.startswith("mod")
    before, after = weights(store.find(source)), weights(store.find(folder))
    assert all(torch.equal(p, after[path]) for path, p in before.items())
    assert {path for path in after if path not in before} == {path for path in after if "auxiliary" in path}
    report = json.loads((folder / "report.json").read_text())
    page = (folder / "index.html").read_text()
    assert f"python -m momafuse.demo run={folder} " in page
    assert page.count("<figure><img") == 16, "eight pictures drawn, eight held out"
    assert report["eval/routing"] == "causal"
    assert {c["modality"] for c in report["auxiliary"]} == {"text", "image"}
    for entry in report["auxiliary"]:
        assert entry["precision"] > 0.5 > entry["per_row"] if entry["kind"] == "depth" else entry["per_row"] == 1.0, entry
    for entry in report["causal"]:
        each = 6 * 32 * 48  # three products of an expert, 2 FLOPs each, at size micro
        assert entry["flops"] == pytest.approx(each * entry["experts_per_row"], abs=1)
    state = store.read_state(store.find(folder))
    seed = store.read_state(store.find(source))
    assert state["origin_sequence"] == seed["sequences"]


def test_a_killed_stage_goes_on_as_if_nothing_had_been(run, run_root):
    source = run("trainer.max_steps=1")
    whole = stage(run_root, source, "trainer.max_steps=4", "run.name=whole", "optim.schedule_steps=8")
    stage(run_root, source, "trainer.max_steps=2", "run.name=parts", "optim.schedule_steps=8")
    parts = stage(run_root, source, "trainer.max_steps=4", "run.name=parts", "optim.schedule_steps=8")
    losses = [[r["train/loss"] for r in read_metrics(f / "metrics.jsonl") if "train/loss" in r] for f in (whole, parts)]
    assert losses[0] == losses[1]


def test_a_micro_batch_that_does_not_divide_is_the_largest_below_it_that_does(run, run_root):
    """The mean over micro-batches is over those that there are."""
    source = run("trainer.max_steps=2")
    words = ("trainer.max_steps=2", "trainer.eval_every=0")
    asked = stage(run_root, source, *words, "trainer.micro_batch=6", "run.name=asked")
    plain = stage(run_root, source, *words, "trainer.micro_batch=4", "run.name=plain")
    rows = [[row["train/loss"] for row in read_metrics(f / "metrics.jsonl") if "train/loss" in row] for f in (asked, plain)]
    assert len(rows[0]) == 2
    assert rows[0] == rows[1]


def test_a_source_that_has_gone_on_is_refused(run, run_root):
    source = run("trainer.max_steps=1")
    stage(run_root, source, "trainer.max_steps=1")
    run("trainer.max_steps=2")
    with pytest.raises(UserError, match=r"choose another run\.name"):
        stage(run_root, source, "trainer.max_steps=2")


def test_what_cannot_be_is_one_line(run, run_root):
    dense, routed = run("trainer.max_steps=1", experiment="dense"), run("trainer.max_steps=1")
    with pytest.raises(UserError, match=r"model_from=.*chooses causally as it is"):
        stage(run_root, dense)
    for word in ("size=nano", "model.dim=64", "router.pool=2", "run.seed=3", "data=starter"):
        with pytest.raises(UserError, match=rf"^{word}: model_from=.* leave .* out"):
            stage(run_root, routed, word)
    with pytest.raises(UserError, match=r"router\.auxiliary=true: .*model_from=RUN"):
        compose(["+experiment=aux_routers"])
    with pytest.raises(UserError, match=r"model_from=.*aux_routers"):
        compose(["+experiment=dense", f"model_from={routed}"])
    with pytest.raises(UserError, match=r"model_from=nowhere: no run there"):
        compose(["+experiment=aux_routers", "model_from=nowhere"])


def test_rows_that_an_expert_does_not_serve_do_not_count():
    logits = torch.tensor([[2.0, -9.0], [-1.0, 9.0], [7.0, 0.5]], dtype=torch.float64)
    taken = torch.tensor([[True, False], [True, False], [False, True]])
    served = torch.tensor([[True, False], [True, False], [False, True]])
    lesson = Lesson(logits, taken, served, torch.zeros(3, dtype=torch.uint8))
    p = [1 / (1 + 2.718281828459045**-z) for z in (2.0, -1.0, 0.5)]
    expected = -sum(torch.tensor(q, dtype=torch.float64).log() for q in p) / 3
    assert float(bce(lesson)) == pytest.approx(float(expected), abs=1e-12)
    meter = BCEMeter(torch.device("cpu"))
    meter.add("experts", lesson, bce(lesson))
    found = meter.named("", meter.sums.flatten().tolist())
    assert found["precision"] == 1.0
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["loss_experts"] == pytest.approx(float(expected))
