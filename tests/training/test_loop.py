"""The loop on real data at micro size: the same losses from the same seed, after any kill, at any micro-batch."""

from __future__ import annotations

import json
import random
import shlex
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from momafuse.checkpoint import store
from momafuse.config.compose import compose, config_dir
from momafuse.data.sources import Raw
from momafuse.errors import UserError
from momafuse.files import only_writer
from momafuse.parallel.machine import machine
from momafuse.reports.metrics import read_metrics
from momafuse.training import finish, pretraining

MEMBERS = ["dense", "moe_1t1i", "moma_4t4i", "moe_8x", "mod_dense", "mod_moma_4t4i", "mot", "mot_text_moe4"]
CAUSAL = ("dense", "moe_1t1i", "mot")
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
    routed = experiment in ("moma_4t4i", "moe_8x", "mod_moma_4t4i", "mot_text_moe4")
    own = {"router"} if routed else set()
    assert set(report) == by_modality | {"eval/loss", "eval/routing", "steps", "tokens", "seconds"} | own
    assert report["eval/routing"] == ("causal" if experiment in CAUSAL else "training")
    assert report["steps"] == 3
    assert 4 < report["unigram/text"] < 9
    for file in ("plots/loss.png", "samples/reconstruction.png", "config.yaml", "revision.txt", "checkpoints/latest"):
        assert (folder / file).stat().st_size
    for file in ("plots/experts.png", "plots/routing.png", "router.jsonl"):
        assert (folder / file).is_file() == routed
    page = (folder / "index.html").read_text()
    assert 'src="http' not in page
    assert page.count("<figure><img") == (16 if experiment in CAUSAL else 0)
    assert ("+experiment=aux_routers model_from=" in page) == (experiment not in CAUSAL)


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


@pytest.mark.parametrize("shape", [("8", "6", "4"), ("8", "64", "8"), ("12", "8", "4")])
def test_a_micro_batch_that_does_not_divide_is_the_largest_below_it_that_does(run, shape, capsys):
    batch, asked, taken = shape
    more = (f"trainer.global_batch={batch}", "trainer.max_steps=2", "trainer.eval_sequences=12")
    found = run(*more, f"trainer.micro_batch={asked}", "run.name=asked")
    assert f"micro_batch {taken} in place of {asked}: global_batch={batch}" in said_by(capsys)
    plain = run(*more, f"trainer.micro_batch={taken}", "run.name=plain")
    assert "in place of" not in said_by(capsys)
    assert losses(found) == losses(plain)
    reports = [json.loads((folder / "report.json").read_text()) | {"seconds": 0} for folder in (found, plain)]
    assert reports[0] == reports[1]
    state = store.read_state(store.find(found))
    assert state["layout"]["micro_batch"] == int(taken)
    assert state["machine"] == machine(torch.device("cpu"))


def test_the_same_command_again_does_nothing_and_more_steps_go_on(run):
    said: list[str] = []
    folder = run("trainer.max_steps=3")
    before = (folder / "metrics.jsonl").read_bytes()
    run("trainer.max_steps=3", said=said)
    run("trainer.max_steps=2", said=said)
    assert all("is complete: 3 steps. For more: trainer.max_steps=6" in line for line in said[:2])
    assert (folder / "metrics.jsonl").read_bytes() == before
    run("trainer.max_steps=5")
    assert len(losses(folder)) == 5
    assert json.loads((folder / "report.json").read_text())["steps"] == 5


def said_by(capsys) -> str:
    """What a run printed, without the line breaks of a narrow terminal."""
    return " ".join("".join(capsys.readouterr()).split())


def test_a_schedule_is_fixed_at_the_first_start_and_it_says_so(run, capsys):
    folder = run("trainer.max_steps=3")
    assert "the schedule has" not in said_by(capsys)
    run("trainer.max_steps=5")
    assert "the schedule has 3 steps: after them the learning rate stays at" in said_by(capsys)
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


def test_a_run_from_another_may_have_a_schedule_of_its_own(run, run_root):
    run("trainer.max_steps=2", "run.name=seed", "optim.lr_end=1e-4")
    longer = "trainer.max_steps=4", "run.name=longer", "resume=" + str(run_root / "seed"), "optim.schedule_steps=9"
    rows = [r for r in read_metrics(run(*longer, "optim.lr=0.5", "optim.lr_end=1e-4") / "metrics.jsonl") if "train/lr" in r]
    assert all(r["train/lr"] > 0.1 for r in rows)


def test_a_run_from_another_that_is_at_its_end_is_refused(run, run_root):
    run("trainer.max_steps=2", "run.name=seed")
    with pytest.raises(UserError, match=r"resume=.*: is at step 2; for more: trainer\.max_steps=4"):
        run("trainer.max_steps=2", "run.name=again", "resume=" + str(run_root / "seed"))
    assert not (run_root / "again").exists()


def test_what_it_says_to_try_next_compares_equal_runs(run, capsys):
    run("trainer.max_steps=2", "run.seed=3", "run.name=one")
    command = said_by(capsys).partition("# go on")[2].partition("# compare")[0]
    assert "+experiment=dense" in command
    assert "trainer.max_steps=2 run.seed=3" in command
    assert "run.name" not in command


@pytest.mark.parametrize(("experiment", "wanted"), [("mod_moma_4t4i", "size=nano"), ("dense", "size=nano_mod")])
def test_models_are_compared_at_the_size_of_equal_flops(experiment, wanted):
    job = compose([f"+experiment={experiment}", "size=nano_mod", "run.name=one"])
    command = next(line for line in finish.summary(job, Path("one"), {"steps": 2.0}) if line.endswith("# compare"))
    assert wanted in command.split()


def test_what_it_says_to_try_next_names_the_users_folder(tmp_path):
    (tmp_path / "my configs" / "size").mkdir(parents=True)
    shutil.copy(config_dir() / "size" / "nano.yaml", tmp_path / "my configs" / "size" / "mine.yaml")
    job = compose(["+experiment=moma_4t4i", "size=mine", "run.name=one"], user_dir=tmp_path / "my configs")
    commands = [line for line in finish.summary(job, Path("one"), {"steps": 2.0}) if line.startswith("  python")]
    assert len(commands) == 3
    assert all(f"--config-dir={tmp_path}/my configs" in "=".join(shlex.split(command)) for command in commands)


def test_the_loss_falls(run):
    rows = losses(run("trainer.max_steps=60", "optim.lr=1e-2"))
    assert sum(r[0] for r in rows[-5:]) / 5 < rows[0][0] - 1.5


def test_a_gradient_that_is_not_finite_stops_the_run(run):
    with pytest.raises(UserError, match=r"optim\.lr"):
        run("trainer.max_steps=40", "optim.lr=1e30", "optim.lr_end=1e30", "optim.grad_clip=1e30", "optim.warmup_steps=1")


def kill_after(process, folder: Path, steps: int, patience: float) -> None:
    """SIGKILL once the run has added `steps` steps to what its checkpoint holds, `patience` seconds later."""
    metrics, end = folder / "metrics.jsonl", time.monotonic() + 120
    kept = store.latest(folder / "checkpoints")
    wanted = steps + (0 if kept is None else int(kept.name.removeprefix("step_")))
    started = metrics.stat().st_mtime_ns if metrics.is_file() else 0
    while time.monotonic() < end and process.poll() is None:
        new = metrics.is_file() and metrics.stat().st_mtime_ns != started
        if new and metrics.read_bytes().count(b"\n") >= wanted:
            time.sleep(patience)
            break
        time.sleep(0.005)
    process.kill()
    process.wait()


def killed_and_resumed(run, start, run_root: Path, kills: int, seed: int, steps: int = 12) -> None:
    whole = run(f"trainer.max_steps={steps}", "run.name=undisturbed")
    undisturbed = losses(whole)
    chance = random.Random(seed)
    more = (f"trainer.max_steps={steps}", "run.name=killed", "checkpoint.every=2")
    folder = run_root / "killed"
    for _ in range(kills):
        process = start(*more)
        kill_after(process, folder, chance.randint(1, steps // kills), chance.uniform(0, 0.2))
    final = start(*more)
    output, _ = final.communicate(timeout=240)
    assert final.returncode == 0, output
    assert losses(folder) == undisturbed
    reports = [json.loads((f / "report.json").read_text()) | {"seconds": 0} for f in (folder, whole)]
    assert reports[0] == reports[1]


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


def test_a_run_killed_before_its_report_is_not_complete(run, monkeypatch):
    folder = run("trainer.max_steps=2")
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "finish", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit):
            run("trainer.max_steps=4")
    assert not (folder / "report.json").exists()
    run("trainer.max_steps=4")
    assert json.loads((folder / "report.json").read_text())["steps"] == 4
    evaluations = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if "eval/loss" in row]
    assert evaluations == [2, 4]


def test_a_second_process_is_refused(run, run_root):
    folder = run("trainer.max_steps=1")
    with only_writer(folder), pytest.raises(UserError, match="another process"):
        run("trainer.max_steps=2")


def test_a_path_to_resume_from_is_never_ignored(run, run_root):
    run("trainer.max_steps=2", "run.name=a")
    with pytest.raises(UserError, match="has checkpoints of its own"):
        run("trainer.max_steps=3", "run.name=a", "resume=/nowhere")
    with pytest.raises(UserError, match="no complete checkpoint"):
        run("trainer.max_steps=3", "run.name=b", "resume=/nowhere")
    with pytest.raises(UserError, match=r"another model\.dim"):
        run("trainer.max_steps=3", "run.name=b", f"resume={run_root / 'a'}", "model.dim=16")
    run("trainer.max_steps=3", "run.name=b", f"resume={run_root / 'a'}", "optim.lr=1e-3")
    run("trainer.max_steps=4", "run.name=b", f"resume={run_root / 'a'}", "optim.lr=1e-3")
    assert store.read_state(store.find(run_root / "b"))["step"] == 4


def test_another_corpus_at_the_same_path_is_refused(run, monkeypatch):
    run("trainer.max_steps=1")
    real = pretraining.open_or_prepare

    def other(config):
        corpus = real(config)
        return replace(corpus, train=replace(corpus.train, fingerprint="another"))

    monkeypatch.setattr(pretraining, "open_or_prepare", other)
    with pytest.raises(UserError, match="other data than the corpus"):
        run("trainer.max_steps=2")


def test_a_lost_config_is_made_up_for_by_the_checkpoints(run):
    folder = run("trainer.max_steps=1", "run.name=a")
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"another model\.dim"):
        run("trainer.max_steps=2", "run.name=a", "model.dim=16")


def test_a_smaller_micro_batch_goes_on(run):
    run("trainer.max_steps=1", "run.name=a", "trainer.global_batch=8", "trainer.micro_batch=8")
    folder = run("trainer.max_steps=2", "run.name=a", "trainer.global_batch=8", "trainer.micro_batch=4")
    assert len(losses(folder)) == 2


def test_pictures_that_cannot_be_decoded_do_not_stop_the_report(run, monkeypatch):
    monkeypatch.setattr(Raw, "read", lambda self: b"no picture")
    folder = run("trainer.max_steps=1", sheets=True)
    assert (folder / "report.json").is_file()
    assert not (folder / "samples/reconstruction.png").exists()


def test_tokens_limit_a_run_too(run):
    said: list[str] = []
    folder = run("trainer.max_tokens=2000")
    assert len(losses(folder)) == 2
    run("trainer.max_tokens=2000", said=said)
    assert "trainer.max_tokens=4000" in said[0]


def test_weights_of_modalities_change_the_training_and_not_the_report(run):
    plain = losses(run("trainer.max_steps=2", "run.name=plain"))
    heavy = losses(run("trainer.max_steps=2", "run.name=heavy", "objective.weight.image=3"))
    assert plain[0][:3] == heavy[0][:3]
    assert plain[0][3] != heavy[0][3]
    assert plain[1][:3] != heavy[1][:3]
