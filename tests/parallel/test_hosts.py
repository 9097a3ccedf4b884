"""Two hosts, as network namespaces with addresses of their own: they train together, one is cut off, the run goes on.

With the static rendezvous of torchrun, as docs/distributed.md has it: the agent of its c10d rendezvous asks a store all the
time, and stays for minutes on a host that cannot reach it, after its ranks have ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from momafuse.checkpoint import store
from momafuse.reports.metrics import read_metrics
from tests.training.conftest import small_corpus, words  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TOP = Path(__file__).parents[2]
TIMEOUT, MORE = 10, 30  # seconds: trainer.timeout, and until all is over on a busy machine
NAMES, ADDRESSES, CARDS = ("momafuse-a", "momafuse-b"), ("10.77.0.1", "10.77.0.2"), ("mfa0", "mfb0")


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    made: list[str] = []
    try:
        for name in NAMES:
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", CARDS[0], "netns", NAMES[0], "type", "veth", "peer", "name", CARDS[1], "netns", NAMES[1])
        for name, address, card in zip(NAMES, ADDRESSES, CARDS, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", card)
            ip("-n", name, "link", "set", card, "up")
        yield
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


def start(folder: Path, job: str, run: list[str]) -> list[subprocess.Popen[bytes]]:
    """The same job on both hosts, what they say in files of `folder`; the first one is the rendezvous."""
    processes = []
    for number, (name, card) in enumerate(zip(NAMES, CARDS, strict=True)):
        meeting = ["--nnodes", "2", "--node-rank", str(number), "--master-addr", ADDRESSES[0], "--master-port", "29400"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *meeting, "--nproc-per-node", "1"]
        command = ["ip", "netns", "exec", name, *torchrun, "-m", "momafuse.train", "+experiment=dense", *run]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": card}
        with said(folder, job, number).open("wb") as out:
            processes.append(subprocess.Popen(command, cwd=TOP, env=environment, stdout=out, stderr=subprocess.STDOUT))
    return processes


def said(folder: Path, job: str, number: int) -> Path:
    return folder / f"{job}-{number}.txt"


def ours(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("momafuse:")]


def wait_for(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_host_that_is_cut_off_ends_the_ranks_of_both_and_the_run_goes_on(hosts, small_corpus, run_root, tmp_path, capsys):  # noqa: F811
    run = [*words(small_corpus, run_root), "run.name=x", "trainer=cpu", "trainer.global_batch=8", "optim.schedule_steps=5000"]
    run += ["checkpoint.every=5", f"trainer.timeout={TIMEOUT}"]
    folder, logs = run_root / "x", [said(tmp_path, "first", number) for number in (0, 1)]
    both = start(tmp_path, "first", [*run, "trainer.max_steps=5000"])
    try:
        wait_for(lambda: store.latest(folder / "checkpoints") is not None, 120)
        ip("-n", NAMES[1], "link", "set", CARDS[1], "down")
        cut = time.monotonic()
        ended = [process.wait(TIMEOUT + MORE) for process in both]
        seconds = time.monotonic() - cut
    finally:
        for process in both:
            process.kill()
    with capsys.disabled():
        print(f"\ntrainer.timeout={TIMEOUT}: both hosts were done {seconds:.1f} s after the cut")
    assert all(ended)
    for rank, log in enumerate(logs):
        (line,) = ours(log.read_text())
        assert line.startswith(f"momafuse: rank {rank}: lost another rank (Timed out waiting {TIMEOUT}000ms")
    saved = store.read_state(store.find(folder))["step"]
    ip("-n", NAMES[1], "link", "set", CARDS[1], "up")
    both = start(tmp_path, "second", [*run, f"trainer.max_steps={saved + 3}"])
    try:
        for number, process in enumerate(both):
            assert process.wait(120) == 0, said(tmp_path, "second", number).read_text()
    finally:
        for process in both:
            process.kill()
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row]
    assert steps == list(range(1, saved + 4))
