"""The loop on real data at micro size: the same losses from the same seed, after any kill, at any micro-batch."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from momafuse.checkpoint import store
from momafuse.errors import UserError
from momafuse.reports.metrics import read_metrics

MEMBERS = ["dense", "moe_1t1i", "moma_2t2i", "moma_4t4i", "moe_8x"]
RESULTS = ("train/loss", "train/loss_text", "train/loss_image", "train/grad_norm", "train/lr", "tokens")


def losses(folder: Path) -> list[tuple[object, ...]]:
    """What a step computed, by step; evaluations are other rows."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [tuple(row[key] for key in RESULTS) for row in rows]


@pytest.mark.parametrize("experiment", MEMBERS)
def test_every_member_trains_and_reports(run, experiment):
    folder = run("trainer.max_steps=3", experiment=experiment, sheets=True)
    report = json.loads((folder / "report.json").read_text())
    by_modality = {"eval/loss_text", "eval/loss_image", "unigram/text", "unigram/image"}
    assert set(report) == by_modality | {"eval/loss", "eval/routing", "steps", "tokens", "seconds"}
    assert report["eval/routing"] == ("causal" if experiment in ("dense", "moe_1t1i") else "training")
    assert report["steps"] == 3
    assert 4 < report["unigram/text"] < 9
    for file in ("plots/loss.png", "samples/reconstruction.png", "config.yaml", "revision.txt", "checkpoints/latest"):
        assert (folder / file).stat().st_size
    assert (folder / "plots/experts.png").is_file() == (experiment != "dense")


def test_one_seed_gives_one_run_and_another_seed_another(run, run_root):
    a = run("trainer.max_steps=4", "router.noise=true", "run.name=a")
    b = run("trainer.max_steps=4", "router.noise=true", "run.name=b")
    c = run("trainer.max_steps=4", "router.noise=true", "run.name=c", "run.seed=1")
    assert losses(a) == losses(b)
    assert losses(a) != losses(c)
    assert json.loads((a / "report.json").read_text())["eval/loss"] == json.loads((b / "report.json").read_text())["eval/loss"]


def test_noise_changes_the_routing(run):
    quiet, noisy = (
        run("trainer.max_steps=2", "run.name=quiet"),
        run("trainer.max_steps=2", "run.name=noisy", "router.noise=true"),
    )
    assert losses(quiet) != losses(noisy)


def test_micro_batches_add_up_to_the_batch(run):
    shapes = ["trainer.global_batch=8", "trainer.max_steps=3"]
    whole = run(*shapes, "trainer.micro_batch=8", "run.name=whole")
    parts = run(*shapes, "trainer.micro_batch=4", "run.name=parts")
    for a, b in zip(losses(whole), losses(parts), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_the_same_command_again_does_nothing_and_more_steps_go_on(run):
    said: list[str] = []
    folder = run("trainer.max_steps=3")
    before = (folder / "metrics.jsonl").read_bytes()
    run("trainer.max_steps=3", said=said)
    assert "is complete: 3 steps" in said[0]
    assert (folder / "metrics.jsonl").read_bytes() == before
    run("trainer.max_steps=5")
    assert len(losses(folder)) == 5
    assert json.loads((folder / "report.json").read_text())["steps"] == 5


def test_a_schedule_is_fixed_at_the_first_start(run):
    folder = run("trainer.max_steps=3")
    run("trainer.max_steps=5")
    assert store.read_state(store.find(folder))["schedule_steps"] == 3


def test_another_size_gets_its_own_folder_and_a_changed_config_is_refused(run, run_root):
    first = run("trainer.max_steps=1")
    second = run("trainer.max_steps=1", "model.dim=16")
    assert first != second
    with pytest.raises(UserError, match=r"another run\.seed, model\.dim|another model\.dim, run\.seed"):
        run("trainer.max_steps=2", f"run.name={first.name}", "model.dim=16", "run.seed=3")


def test_resume_none_does_not_overwrite(run):
    run("trainer.max_steps=1")
    with pytest.raises(UserError, match="resume=none"):
        run("trainer.max_steps=2", "resume=none")


def test_resume_from_another_run(run):
    undisturbed = run("trainer.max_steps=4", "run.name=undisturbed", "optim.schedule_steps=4")
    run("trainer.max_steps=2", "run.name=seed", "optim.schedule_steps=4")
    seed = undisturbed.parent / "seed"
    copy = run("trainer.max_steps=4", "run.name=copy", f"resume={seed}", "optim.schedule_steps=4")
    rows = [r for r in read_metrics(copy / "metrics.jsonl") if "train/loss" in r]
    assert [tuple(r[k] for k in RESULTS) for r in rows] == losses(undisturbed)[2:]


def test_the_loss_falls(run):
    rows = losses(run("trainer.max_steps=60", "optim.lr=1e-2"))
    assert sum(r[0] for r in rows[-5:]) / 5 < rows[0][0] - 1.5


def test_a_gradient_that_is_not_finite_stops_the_run(run):
    with pytest.raises(UserError, match=r"optim\.lr"):
        run("trainer.max_steps=40", "optim.lr=1e30", "optim.lr_end=1e30", "optim.grad_clip=1e30", "optim.warmup_steps=1")


def kill_after(process, folder: Path, steps: int, patience: float) -> None:
    """SIGKILL once the run has made `steps` steps, `patience` seconds later."""
    metrics, end = folder / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if metrics.is_file() and metrics.read_bytes().count(b"\n") >= steps:
            time.sleep(patience)
            break
        time.sleep(0.005)
    process.kill()
    process.wait()


def killed_and_resumed(run, start, run_root: Path, kills: int, seed: int, steps: int = 12) -> None:
    undisturbed = losses(run(f"trainer.max_steps={steps}", "run.name=undisturbed"))
    chance = random.Random(seed)
    more = (f"trainer.max_steps={steps}", "run.name=killed", "checkpoint.every=2")
    folder = run_root / "killed"
    for _ in range(kills):
        process = start(*more)
        kill_after(process, folder, chance.randint(1, steps), chance.uniform(0, 0.2))
    final = start(*more)
    output, _ = final.communicate(timeout=240)
    assert final.returncode == 0, output
    assert losses(folder) == undisturbed
    assert json.loads((folder / "report.json").read_text())["steps"] == steps


def test_killed_and_resumed_makes_the_losses_of_the_undisturbed_run(run, start, run_root):
    killed_and_resumed(run, start, run_root, kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_many_times(run, start, run_root, seed):
    killed_and_resumed(run, start, run_root, kills=5, seed=seed)


def test_bad_shares_stop_before_anything_is_written(run, run_root):
    with pytest.raises(UserError, match=r"data\.image_share=0\.501.*0\.5"):
        run("data.image_share=0.501")
    assert not list(run_root.iterdir())


def test_a_corrupt_checkpoint_is_named(run):
    folder = run("trainer.max_steps=2")
    newest = store.find(folder)
    victim = next(newest.glob("*.distcp"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(UserError, match=f"{victim.name} is corrupt"):
        run("trainer.max_steps=3")
