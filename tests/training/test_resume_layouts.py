"""The real command under torchrun: resumed at another number of ranks, killed at any moment, with a full disk.

At one layout a resumed run makes the losses of the undisturbed one to the last digit; at another it sees the same sequences,
and losses agree to 1e-5, since sums are rounded in another order (dense and moe_1t1i: no routing that could flip).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from momafuse.checkpoint import saving, store
from momafuse.errors import UserError
from tests.training.conftest import words
from tests.training.killing import MOMENTS
from tests.training.test_loop import losses

ROOT = Path(__file__).parents[2]
SHAPE = ("trainer.global_batch=16", "trainer.micro_batch=16")  # more than a rank of many has
Torchrun = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def torchrun(small_corpus: Path, run_root: Path) -> Torchrun:
    """Start the training command at a number of ranks, in a session of its own."""

    def begin(ranks: int, *more: str, experiment: str, die: str = "", module: str = "momafuse.train") -> subprocess.Popen[str]:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
        command = [*start, module, f"+experiment={experiment}", *words(small_corpus, run_root, *more)]
        env = os.environ | ({"DIE": die} if die else {})
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    return begin


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def layouts(
    torchrun: Torchrun, run, run_root: Path, experiment: str, ranks: tuple[int, ...], replicas: tuple[int, ...] = (1, 1, 1)
) -> None:
    """Two steps at each number of ranks, beside a run of one process."""
    experiment, *options = experiment.split()
    more = (*SHAPE, "optim.schedule_steps=6", "model.ffn=60", *options)  # 60: shards that are padded too
    whole = losses(run(f"trainer.max_steps={2 * len(ranks)}", "run.name=whole", *more, experiment=experiment))
    for number, n in enumerate(ranks, start=1):
        here, before = (f"replicas={replicas[at]}, micro_batch={16 // ranks[at]}" for at in (number - 1, number - 2))
        words = (f"trainer.max_steps={2 * number}", f"trainer.replicas={replicas[number - 1]}", "run.name=moved")
        output = finish(torchrun(n, *words, *more, experiment=experiment))
        state = store.read_state(store.find(run_root / "moved"))
        assert state["layout"] == {"ranks": n, "replicas": replicas[number - 1], "micro_batch": 16 // n}
        assert output.count(f"micro_batch {16 // n} in place of 16: global_batch=16 over {n} ranks\n") == (n > 1), output
        assert state["sequences"] == 2 * number * 16
        assert sum(state["tokens_of"].values()) == state["tokens"]
        if number > 1:
            line = f"saved at ranks={ranks[number - 2]}, {before}; now ranks={n}, {here}"
            assert output.count(line) == 1, output
    moved = losses(run_root / "moved")
    for a, b in zip(moved, whole, strict=True):
        (*a_losses, a_norm, a_rate, a_tokens), (*b_losses, b_norm, b_rate, b_tokens) = a, b
        assert a_losses == pytest.approx(b_losses, rel=1e-5)
        assert a_norm == pytest.approx(b_norm, rel=1e-4)  # in fp32 over shards of other sizes
        assert (a_rate, a_tokens) == (b_rate, b_tokens)
    assert moved[:2] != moved[2:4]


def test_two_ranks_then_four_then_one(torchrun, run, run_root):
    layouts(torchrun, run, run_root, "moe_1t1i", (2, 4, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "ranks"),
    [
        ("dense", (2, 4, 1)),
        ("dense", (1, 4, 2)),
        ("moe_1t1i", (1, 4, 2)),
        ("dense model.attention.qk_norm_per_head=true", (2, 4, 1)),  # norms are cut by head, then along their width
    ],
)
def test_other_ways_round(torchrun, run, run_root, experiment, ranks):
    layouts(torchrun, run, run_root, experiment, ranks)


@pytest.mark.slow
def test_replicas_of_shards_in_between(torchrun, run, run_root):
    layouts(torchrun, run, run_root, "moe_1t1i", (2, 4, 2), replicas=(1, 2, 2))


STEPS, EVERY = 6, 2
KILLED = ("trainer.global_batch=8", f"trainer.max_steps={STEPS}", f"checkpoint.every={EVERY}", "trainer.log_every=1")


def undisturbed(torchrun: Torchrun, run_root: Path) -> list[tuple[object, ...]]:
    finish(torchrun(2, *KILLED, "run.name=undisturbed", experiment="moma_4t4i"))
    return losses(run_root / "undisturbed")


def resumed(torchrun: Torchrun, run_root: Path, name: str, expected: list[tuple[object, ...]]) -> str:
    output = finish(torchrun(2, *KILLED, f"run.name={name}", experiment="moma_4t4i"))
    assert losses(run_root / name) == expected
    assert json.loads((run_root / name / "report.json").read_text())["steps"] == STEPS
    checkpoints = run_root / name / "checkpoints"
    assert (checkpoints / "latest").read_text() == store.step_name(STEPS)
    assert not list(checkpoints.glob(".*"))
    return output


def die_in_a_save(torchrun: Torchrun, run_root: Path, name: str, rank: int, moment: str, step: int) -> None:
    """One rank is gone in the middle of a save; torchrun ends the other."""
    process = torchrun(
        2, *KILLED, f"run.name={name}", experiment="moma_4t4i", die=f"{rank}:{moment}:{step}", module="tests.training.killing"
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0, output
    assert "SIGKILL" in output or "Signal 9" in output or "exitcode  : -9" in output, output
    saved = [c.name for c in store.complete(run_root / name / "checkpoints")]
    committed = rank == 0 and moment in ("latest", "old")
    assert (saved[-1:] == [store.step_name(step)]) == committed
    before = step if committed else step - EVERY
    assert not before or saved[-1] == store.step_name(before)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in children.read_text().split()] if children.is_file() else []


def kill_from_outside(torchrun: Torchrun, run_root: Path, name: str, everyone: bool, chance: random.Random) -> None:
    """SIGKILL of a random rank, or of all and torchrun, some time after a random step."""
    process = torchrun(2, *KILLED, f"run.name={name}", experiment="moma_4t4i")
    metrics, wanted, end = run_root / name / "metrics.jsonl", chance.randint(1, STEPS - 1), time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if metrics.is_file() and metrics.read_bytes().count(b"\n") >= wanted:
            break
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.3))
    ranks = ranks_of(process)
    for pid in [process.pid, *ranks] if everyone else [chance.choice(ranks)] if ranks else []:
        with contextlib.suppress(ProcessLookupError):  # it has come to its end
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=240)


def test_killed_between_save_and_latest_and_in_the_middle_of_a_save(torchrun, run_root):
    expected = undisturbed(torchrun, run_root)
    die_in_a_save(torchrun, run_root, "killed", 0, "latest", 2)
    die_in_a_save(torchrun, run_root, "killed", 1, "shards", 4)
    output = resumed(torchrun, run_root, "killed", expected)
    assert f"going on from {run_root / 'killed' / 'checkpoints' / 'step_00000002'}" in output.replace("\n", "")
    assert "step_00000004 was not saved to its end and is dropped" in output


@pytest.mark.slow
def test_killed_twenty_times(torchrun, run_root):
    """Ten moments of saves, five times one rank and five times all, at random; each try goes on to its end."""
    expected, chance = undisturbed(torchrun, run_root), random.Random(0)
    for number in range(20):
        name = f"try{number}"
        if number % 2:
            rank = 0 if number % 4 == 1 else 1
            moment = MOMENTS[number // 4] if rank == 0 else ("begin", "shards")[number // 4 % 2]
            die_in_a_save(torchrun, run_root, name, rank, moment, chance.choice((2, 4, 6)))
        else:
            kill_from_outside(torchrun, run_root, name, number % 4 == 0, chance)
        resumed(torchrun, run_root, name, expected)


@pytest.fixture
def small_disk(tmp_path: Path):
    """Mounts a file system of a few MB at a folder; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        folder.mkdir(parents=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True).returncode:
            pytest.skip("file systems cannot be mounted here")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_more_room_goes_on(run, run_root, small_disk):
    words = ("trainer.max_steps=6", "checkpoint.every=2", "checkpoint.keep_last=5", "run.name=full")
    whole = losses(run("trainer.max_steps=6", "run.name=whole"))
    checkpoints = run_root / "full" / "checkpoints"
    small_disk(checkpoints, "25m")
    with pytest.raises(
        UserError, match=r"step_0000000[46]: cannot be written \(.*its disk has .* left; older checkpoints are untouched"
    ):
        run(*words)
    assert store.complete(checkpoints)
    for c in store.complete(checkpoints):
        store.verify(c)
    assert not list(checkpoints.glob(".step*"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(checkpoints)], check=True)
    assert losses(run(*words)) == whole


@pytest.mark.slow
def test_memory_stays_flat_over_many_saves(run, monkeypatch, capsys):
    """300 steps with 15 saves: the last five find the process less than 8 MB above the first five; a checkpoint has 10.7 MB."""
    resident: list[int] = []
    save = saving.Saver.save

    def watched(self, *args):
        save(self, *args)
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    monkeypatch.setattr(saving.Saver, "save", watched)
    folder = run("trainer.max_steps=300", "checkpoint.every=20", "trainer.log_every=100")
    megabytes = [round(n / 1e6, 1) for n in resident]
    size = sum(f.stat().st_size for f in store.find(folder).iterdir()) / 1e6
    with capsys.disabled():
        print(f"\nresident MB at each save: {megabytes}; a checkpoint has {size:.1f} MB")
    assert len(megabytes) == 15
    assert max(megabytes[-5:]) - max(megabytes[:5]) < 8 < size
